"""The servers of a launch on one node: started together, asked what they are, stopped to the last process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from servegauge.base.progress import duration, utc_now
from servegauge.contract.config_types import Platform
from servegauge.contract.records.cell import Flag
from servegauge.contract.records.launch import Instance, ServerStart
from servegauge.contract.records.order import Node
from servegauge.contract.spec import Launch, digest
from servegauge.frameworks.base import Context, Evidence, Framework
from servegauge.frameworks.reported_config import evidence_flags
from servegauge.inputs import environments, models
from servegauge.launch import compile_caches, provenance, server
from servegauge.node import gpus


@dataclass
class Instances:
    """`running` holds what `start` started. `node` is this task among the launch's nodes."""

    launch: Launch
    framework: Framework
    node: Node
    root: Path
    logs: Path  # the attempt's folder
    work: Path  # a private folder on the node's own disk
    api_key: str  # one for all instances, never written to results
    profile: bool = False
    around: server.Around | None = None  # what starts each server's command
    running: list[server.Server] = field(default_factory=list)
    caches: list[compile_caches.Cache] = field(default_factory=list)  # of the instances, in their order

    @property
    def is_head(self) -> bool:
        return self.node.rank == 0

    @property
    def platform(self) -> Platform:
        return self.launch.platform

    def start(self, ready_s: float, give_up: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Start every instance and wait until all answer; a port that was taken meanwhile is tried once more.

        `give_up()` ends the waiting. On a node that is not the head there is no server to ask, so it does not wait.
        """
        for tries_left in (1, 0):
            try:
                self._start_once(ready_s, give_up)
                return
            except server.ServerError as error:
                self.stop()
                if not tries_left or give_up() or "address already in use" not in str(error).lower():
                    raise
                say("a port was taken by another process meanwhile; trying another")

    def _start_once(self, ready_s: float, give_up: Callable[[], bool]) -> None:
        self.running = []
        one_by_one = self.launch.layout.share_gpu  # each takes its part of the memory that it finds free
        cpus = self.launch.placement.server_cpus
        base = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **self._variables()}
        for instance in range(self.launch.layout.instances):
            # Each node writes and seals its own; the head's has the plain name.
            part = "" if self.is_head else f"-node-{self.node.rank}"
            log = self.logs / f"server-{instance}{part}.log"
            self.running.append(server.start(self.framework, self._context(instance), log, cpus, base, self.around))
            if one_by_one:
                self.running[-1].wait_ready(ready_s, give_up)
        if self.is_head and not one_by_one:
            for one in self.running:
                one.wait_ready(ready_s, give_up)

    def stop(self) -> None:
        """End all of them; may be called at any time, more than once."""
        # Only the head waits for an answer; a part of a server elsewhere did well where it runs to the end.
        ready = bool(self.running) and all(
            one.ready_s is not None if self.is_head else one.alive() for one in self.running
        )
        for one in self.running:
            one.stop()
        for cache in self.caches:
            cache.release(ready)
        self.caches = []

    def alive(self) -> bool:
        return all(one.alive() for one in self.running)

    def evidence(self, say: Callable[[str], None]) -> tuple[ServerStart, list[Flag]]:
        """What the servers say of themselves, for `launch.json`, and flags where that is not what was asked."""
        slowest = max(one.ready_s or 0.0 for one in self.running)
        say(f"ready after {duration(slowest)}")
        found = [self.framework.evidence(one.client, one.output()) for one in self.running]
        flags = [msgspec.convert(flag, Flag) for one in found for flag in evidence_flags(self.launch, one)]
        described = tuple(
            _describe(one, evidence, cache)
            for one, evidence, cache in zip(self.running, found, self.caches, strict=True)
        )
        return ServerStart(utc=utc_now(), ready_s=slowest, instances=described), flags

    def _variables(self) -> dict[str, str]:
        """Environment of the platform, then of the study: the study wins."""
        own = environments.variables(self.launch.framework, self.platform, self.root)
        both = {**own, **(self.platform.get("environment") or {}), **self.launch.environment}
        return {name: str(value) for name, value in both.items()}

    def _gpus(self, instance: int) -> tuple[str, ...]:
        """The GPUs of one instance: its part of what Slurm gave the job, in order; none on a CPU platform."""
        variable, given = gpus.visible()
        if not variable:  # where one is empty, none of the node's GPUs is the job's
            given = [str(number) for number in range(self.platform.get("gpus_per_node") or 0)]
        if not given and self.framework.on_cpu(self.launch):
            return ()
        here = self.launch.layout.gpus_per_instance // self.node.nodes
        first = 0 if self.launch.layout.share_gpu else instance * here
        if first + here > len(given):
            raise server.ServerError(
                f"instance {instance} needs GPUs {first} to {first + here - 1} of this job, which has {len(given)}: "
                f"correct gres in config/platforms/{self.platform['name']}.yaml"
            )
        return tuple(given[first : first + here])

    def _context(self, instance: int) -> Context:
        private = self.work / f"instance-{instance}"
        private.mkdir(mode=0o700, exist_ok=True)
        python = environments.framework_python(self.launch.framework, self.platform, self.root)
        # Another environment is another version, and another place of a part may be another GPU.
        key = f"{self.launch.configuration}-{digest([python, self.node.rank, self.node.nodes, instance])}"
        self.caches.append(compile_caches.take(self.platform.get("scratch"), key, private / "caches"))
        context = Context(
            launch=self.launch,
            model_path=models.weights_path(self.launch.model, self.framework.weights, self.root),
            port=server.free_port(),
            # The API key is random, and only a launch that spans nodes listens beyond the loopback.
            host="0.0.0.0" if self.node.nodes > 1 else "127.0.0.1",
            instance=instance,
            served_name=self.launch.model["name"],
            api_key=self.api_key,
            python=python,
            work=private,
            cache=self.caches[-1].folder,
            gpus=self._gpus(instance),
            node_rank=self.node.rank,
            nodes=self.node.nodes,
            head_address=self.node.head,
            head_port=self.node.head_port,
            profile=self.profile,
        )
        key_file = private / "api-key"
        key_file.touch(mode=0o600)
        key_file.write_text(context.api_key + "\n", encoding="utf-8")
        return replace(context, api_key_file=key_file)


def _describe(running: server.Server, evidence: Evidence, cache: compile_caches.Cache) -> Instance:
    described = {
        "argv": list(running.argv),
        "environment": dict(running.environment),
        "ready_s": running.ready_s,
        "version": evidence.version,
        "compile_cache": cache.state,
        "compile_cache_reason": cache.reason,
        "evidence": asdict(evidence),
    }
    return msgspec.convert(provenance.without_secrets(described, [running.context.api_key]), Instance)
