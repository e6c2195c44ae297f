"""What nccl-tests printed, text or JSON, as rows: read by the table's own header, refused where it is not understood.

Read from the sources of nccl-tests (github.com/NVIDIA/nccl-tests, 2019 to 2.19.6: src/common.cu, src/util.cu). The
text's columns have changed several times (a root column, `error` became `#wrong`, timestamps, per-iteration columns),
and each table says in its header which it has. Lines of NCCL_DEBUG may be between, even inside a row. A file may hold
several runs, and one that died is a run with its failure: the next one is another. Lines that a launcher labels with
their rank are read without the label; lines without a row's numbers, such as warnings of MPI, are notes. What could be
a row, or a part of one, and does not fit is an error with its number and the reason: a guess would become a number in
a dataset.

AMD's rccl-tests (github.com/ROCm/rccl-tests) prints the same tables between lines of its own. They are read as outputs
that others published show them (2021 to 2025); no run on hardware of ours was seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from servegauge.probes.nccl_runs import Device, Measurement, NcclOutputError, Run, busbw_factor

__all__ = ["Device", "Measurement", "NcclOutputError", "Run", "busbw_factor", "parse", "parse_json"]

KNOWN_JSON_VERSIONS = (1, 2, 3)
CUT_OFF = "the test did not come to its end"

# First words of a row, in the order in which a header may name them
LEADING = ("size", "count", "type", "redop", "root")
# The units line below a header, for each column; a table in other units is another format (2017's was in ms)
UNITS = {
    "size": "(B)", "count": "(elements)", "time": "(us)", "cputime": "(us)", "algbw": "(GB/s)", "busbw": "(GB/s)",
    "i_min": "(us)", "i_max": "(us)", "i_p99": "(us)", "i_cv%": "(%)",
}  # fmt: skip
DEBUG = re.compile(
    r"(\[\d{4}-\d\d-\d\d[ T][\d:.]+\] )?[\w.-]+:\d+:\d+ \[[\d, -]+\] .*|NCCL version \d.*"
    r"|(?:HIP version|ROCm version|Hostname|Librccl path)\s*: .*",
    re.ASCII,
)  # fmt: skip
DEVICE = re.compile(
    r"#\s+Rank\s+(?P<rank>\d+)(?:\s+Group\s+(?P<group>\d+))?\s+Pid\s+\d+ on\s+(?P<host>\S+)\s+device\s+(?P<device>\d+)"
    r" \[(?P<pci>[0-9a-fA-Fx:.]+)\] (?P<model>.+)"
)
RCCL = re.compile(r"(rccl-tests: Version|RCCL version) ?:?\s*(\S*).*")
FAILURE = re.compile(
    r"Test (?:NCCL|CUDA|HIP) failure|Test failure|Test timeout|[NR]CCL failure|(?:CUDA|HIP) failure|Out of memory"
    # messages about a process that died: its own, the kernel's, or the launcher's
    r"|Segmentation fault|\b(?:Killed|Aborted|Bus error|Terminated)\b|terminate called|\*\*\* Process received signal"
    r"|error while loading shared libraries|symbol lookup error|(?:srun|slurmstepd|slurmd): error:"
    r"|\b(?:mpirun|mpiexec|prterun|orted)\b.*(?:detected|noticed|exited|unable|abort)|exited on signal \d+"
)
SETTINGS = re.compile(
    r"# nThreads?:? (\d+) nGpus:? (\d+)(?: nRanks:? (?P<ranks>\d+))? minBytes:? (\d+) maxBytes:? (\d+) "
    r"step: (\d+)\((factor|bytes)\) (?P<rest>.*)"
)
NUMBERS = re.compile(r"\s*\d+\s+\d+\s")  # how a row begins
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
# What stands before the first lines of a test where srun -l, mpirun --tag-output or kubectl name each line's rank
LABEL = re.compile(r"\s*(\S.*?)\s?(?=# (?:nThreads?:? \d|nccl-tests version |Collective test starting: ))")
IN_TEST = re.compile(r"Test (?:\w+ )?failure|Test timeout")  # what a test prints itself, at its end too
NULL_BODY = re.compile(r"\S {32,}")  # out-of-place left blank: trace replay measures in-place only


def parse(text: str, source: str = "nccl-tests output") -> list[Run]:
    """Every run in `text`, JSON or printed; NcclOutputError for anything not understood, or where there is none."""
    if text.lstrip().startswith("{"):
        return [parse_json(text, source)]
    return _Text(source).read(text)


class _Text:
    """The reading of one printed output, line by line."""

    def __init__(self, source: str) -> None:
        self.source, self.runs = source, list[Run]()
        self.run: Run | None = None
        self.columns: list[str] | None = None
        self.units_seen = self.closed = self.ended = False
        self.placement = ""  # the line above a header, which names the placements that follow
        self.pending, self.number, self.line = "", 0, ""
        self.short: NcclOutputError | None = None  # a row with too few columns: the last one of a run that was cut off
        self.unknown: NcclOutputError | None = None

    def refuse(self, reason: str) -> NcclOutputError:
        return NcclOutputError(f"{self.source}, line {self.number}: {reason}: {self.line[:200]!r}")

    def read(self, text: str) -> list[Run]:
        lines = text.splitlines()
        labels = {_shape(match[1]) for line in lines if (match := LABEL.match(line))}
        label = re.compile(rf"\s*(?:{'|'.join(sorted(labels))})\s?" if labels else "")
        for self.number, raw in enumerate(lines, start=1):
            self.line = label.sub("", raw.rstrip(), count=1) if label.match(raw) else raw.rstrip()
            self._one(self.line)
        self.line = "(end)"
        self._finish()
        if not self.runs:
            raise self.unknown or self.refuse("there is no nccl-tests table in it")
        return self.runs

    def _one(self, line: str) -> None:
        plain = line.strip()
        if not plain or DEBUG.fullmatch(plain):
            return
        numbers = [bool(NUMBER.fullmatch(word)) for word in plain.split()]
        in_table = self.run is not None and self.columns is not None and not self.closed
        if plain.startswith("#"):
            self._comment(plain)
        elif FAILURE.search(line):
            self._failed(plain)
        elif match := RCCL.fullmatch(plain):
            name = "version" if match[1].startswith("rccl") else "nccl_version"
            setattr(self._open(), name, match[2] or None)
        elif NUMBERS.match(line) or (self.pending and numbers[0]) or (in_table and sum(numbers) > 3):
            self._row(line)
        elif self.run is not None:
            self.run.notes.append(plain)
        else:
            self.unknown = self.unknown or self.refuse("neither a comment, a row of a table, nor a line of NCCL_DEBUG")

    def _failed(self, message: str) -> None:
        """A message about a process that died: of the run at hand, or of one that had printed nothing yet."""
        over = self.ended or (self.closed and self.run and self.run.collective is None and not IN_TEST.search(message))
        if over:
            self._finish()
        run = self._open()
        run.failure = run.failure or message
        self.pending = ""

    def _open(self) -> Run:
        if self.run is None:
            self.run = Run(line=self.number)
            self.columns, self.units_seen, self.closed, self.ended = None, False, False, False
        return self.run

    def _finish(self) -> None:
        """Close the run at hand; one that did not end as nccl-tests ends one has failed."""
        run, self.run = self.run, None
        if run is None:
            return
        self.pending, self.short = "", None
        if run.failure is None:
            if self.columns is None:
                if not (run.devices or run.settings or run.collective):
                    return  # only comments
                run.failure = "it ended before its table"
            elif not self.closed:
                run.failure = "it ended without 'Avg bus bandwidth': it was cut off"
            elif not run.devices:
                raise self.refuse(f"the run of line {run.line} names no devices, so its ranks are unknown")
        self.runs.append(run)

    def _comment(self, line: str) -> None:
        words = line[1:].split()
        if not words:
            return
        first = " ".join(words[:2])
        if self.run is not None and self._starts_another(self.run, line, words):
            self._finish()
        run = self._open()
        if first == "nccl-tests version":
            run.version = words[2]
            library = [word.partition("=")[2] for word in words if word.startswith("nccl-library=")]
            run.nccl_version = library[0] if library else None
        elif line.startswith("# Collective test starting:"):
            run.collective = _name(words[-1])
        elif line.startswith("# Collective test concluded:"):
            if run.collective != _name(words[-1]):
                raise self.refuse(f"the end of another test than {run.collective}")
            self.ended = True
        elif words[0] in ("nThread", "nThread:", "nThreads:"):
            self._settings(line)
        elif words[0] == "Rank":
            self._device(line)
        elif words[0] == "size":
            self._header(words)
        elif words[0] == "(B)":
            self._units(words)
        elif words[0] == "bytes" and "algbw" in words:
            raise self.refuse("the table of 2017's builds, whose times are in ms, is not supported")
        elif line.startswith("# Out of bounds values"):
            run.out_of_bounds = int(self._number(words[5], "out of bounds"))
        elif line.startswith("# Avg bus bandwidth"):
            if self.short:
                raise self.short
            nothing = words[4].lstrip("-") == "nan"  # the mean of no rows
            run.average_busbw_gb_s = None if nothing else self._number(words[4], "average")
            self.closed = True
        elif line.startswith("# error:"):
            run.failure = line[2:]
        else:
            self.placement = line[1:].strip()
            run.notes.append(self.placement)

    def _starts_another(self, run: Run, line: str, words: list[str]) -> bool:
        """Whether a comment is the first of the next run: these lines come once, in this order, before everything."""
        begun = bool(self.closed or self.columns is not None or run.failure or run.devices or run.settings)
        if line.startswith("# nccl-tests version"):
            return begun or run.collective is not None or run.version is not None
        if line.startswith("# Collective test starting:"):
            return begun or run.collective is not None
        return begun and words[0] in ("nThread", "nThread:", "nThreads:")

    def _settings(self, line: str) -> None:
        match = SETTINGS.fullmatch(line)
        if not match:
            raise self.refuse("a line of settings in another form than known")
        settings = self._open().settings
        names = ("threads", "gpus_per_thread", "min_bytes", "max_bytes", "step")
        found = [match[1], match[2], match[4], match[5], match[6]]
        settings.update(zip(names, map(int, found), strict=True))
        settings["step_kind"] = match[7]
        for name, value in re.findall(r"([A-Za-z_ ]+): (\d+)", match["rest"]):
            settings[name.strip().replace(" ", "_").replace("warmupIters", "warmup_iters")] = int(value)

    def _device(self, line: str) -> None:
        match = DEVICE.fullmatch(line.rstrip())
        if not match:
            raise self.refuse("a rank's device in another form than known")
        run = self._open()
        if int(match["rank"]) != len(run.devices):
            each = "; each process ran a test of its own: build nccl-tests with MPI=1" if match["rank"] == "0" else ""
            raise self.refuse(f"rank {match['rank']} where rank {len(run.devices)} comes next{each}")
        run.devices.append(
            Device(int(match["rank"]), match["host"], int(match["device"]), match["pci"], match["model"])
        )

    def _header(self, words: list[str]) -> None:
        leading = [word for word in words if word in LEADING]
        body = words[len(leading) :]
        if words[: len(leading)] != leading or leading != [name for name in LEADING if name in leading]:
            raise self.refuse("the header's first columns are not in a known order")
        timestamp = body[-1:] == ["timestamp"]
        body = body[:-1] if timestamp else body
        alone = body.count("algbw") == 1 and self.placement == "in-place"  # rccl-tests without out-of-place
        half = len(body) if alone else len(body) // 2
        known = ({"time", "cputime"}, {"algbw"}, {"busbw"}, {"error", "#wrong"})
        extra = ["i_min", "i_max", "i_p99", "i_cv%"]
        shape = half >= 4 and all(body[i] in allowed for i, allowed in enumerate(known))
        twice = alone or (len(body) % 2 == 0 and body[:half] == body[half:])
        if not twice or not shape or body[4:half] not in ([], extra):
            raise self.refuse("the header's columns are not those of any known version")
        self.columns = leading + body + (["timestamp"] if timestamp else [])
        self.half = half

    def _units(self, words: list[str]) -> None:
        if self.columns is None:
            raise self.refuse("a line of units without a header")
        expected = [UNITS[name] for name in self.columns if name in UNITS]
        if words[: len(expected)] != expected:
            raise self.refuse(f"other units than {' '.join(expected)}")
        self.units_seen = True

    def _row(self, line: str) -> None:
        """A row, or the first part of one that a line of NCCL_DEBUG cut in two."""
        # By the name of a host that takes part: a container's may begin with digits, just behind those of the row.
        hosts = [re.escape(device.host) for device in self._open().devices] + [r"[A-Za-z][\w.-]*"]
        inside = re.match(rf"(\s*\d+\s+\d+\s+\w+.*?)(?:{'|'.join(hosts)}):\d+:\d+ \[\d+\] ", line)
        cut = inside or re.match(r"(.*?\s)\S+:\d+:\d+ \[\d+\] ", line)
        if self.columns is not None and cut:
            self.pending += cut[1]
            return
        line, self.pending = self.pending + line, ""
        if self.columns is None or self.closed:
            raise self.refuse("neither a comment, a row of a table, nor a line of NCCL_DEBUG")
        if not self.units_seen:
            raise self.refuse("a row before the line of units")
        tokens, columns = line.split(), list(self.columns)
        if columns[-1] == "timestamp":
            columns, tokens, stamp = columns[:-1], tokens[:-2], tokens[-2:]
            if len(stamp) != 2 or not re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", " ".join(stamp)):
                raise self.refuse("the row has no timestamp where the header has one")
        if self.short:
            raise self.short
        leading = len([name for name in columns if name in LEADING])
        alone = len(columns) == leading + self.half
        bodies = [(True, leading)] if alone else [(False, leading), (True, leading + self.half)]
        if not alone and len(tokens) == len(columns) - self.half and NULL_BODY.search(line):
            bodies = [(True, leading)]
        elif len(tokens) != len(columns):
            wrong = self.refuse(f"{len(tokens)} columns where the header has {len(columns)}")
            if len(tokens) > len(columns):
                raise wrong
            self.short = wrong
            return
        about = dict(zip(columns[:leading], tokens[:leading], strict=True))
        for in_place, at in bodies:
            names = columns[leading : leading + self.half]
            self._open().rows.append(self._measurement(about, dict(zip(names, tokens[at:], strict=False)), in_place))

    def _measurement(self, about: Mapping[str, str], body: Mapping[str, str], in_place: bool) -> Measurement:
        def checked(name: str) -> float | None:
            return None if body.get(name, "N/A") == "N/A" else self._number(body[name], name)

        return Measurement(
            size_bytes=int(self._number(about["size"], "size")),
            count=int(self._number(about["count"], "count")),
            dtype=about["type"],
            redop=None if about.get("redop", "none") == "none" else about["redop"],
            root=None if int(about.get("root", "-1")) < 0 else int(about["root"]),
            in_place=in_place,
            time_us=self._number(body.get("time", body.get("cputime", "")), "time"),
            algbw_gb_s=self._number(body["algbw"], "algbw"),
            busbw_gb_s=self._number(body["busbw"], "busbw"),
            wrong=checked("#wrong"),
            error=checked("error"),
            cpu_time="cputime" in body,
        )

    def _number(self, text: str, name: str) -> float:
        if not NUMBER.fullmatch(text):
            raise self.refuse(f"{name} is {text!r}, not a number")
        return float(text)


def parse_json(text: str, source: str = "nccl-tests JSON") -> Run:
    """The run in a file that `-J` wrote. The environment it holds is not kept: environments hold secrets."""

    def refuse(reason: str) -> NcclOutputError:
        return NcclOutputError(f"{source}: {reason}")

    try:
        data = json.loads(text)
    except RecursionError:
        raise refuse("not JSON (it is nested too deep)") from None
    except json.JSONDecodeError as error:
        raise NcclOutputError(f"{source}, line {error.lineno}: not JSON ({error.msg}); was the test killed?") from error
    if data.get("version") not in KNOWN_JSON_VERSIONS:
        raise refuse(f"version {data.get('version')!r} of the format; known are {KNOWN_JSON_VERSIONS}")
    missing = [key for key in ("args", "config", "results") if key not in data]
    error_text = next((str(error) for error in data.get("errors") or [] if error), None)
    if missing and error_text and "args" in data:
        return Run(line=1, collective=_name(str(data["args"][0])), failure=error_text)
    if missing:
        raise refuse(f"{', '.join(missing)} is absent: {CUT_OFF}")
    average = data.get("average_bus_bandwidth")
    config = dict(data["config"])
    devices = [
        Device(one["rank"], one["hostname"], one["device"], one["device_hex"], one["device_info"])
        for one in config.pop("devices", [])
    ]
    run = Run(
        line=1,
        collective=_name(str(data["args"][0])),
        nccl_version=str(data["nccl_version"]) if "nccl_version" in data else None,
        settings={**config, "iters": config.get("iterations")},
        devices=devices,
        out_of_bounds=(data.get("out_of_bounds") or {}).get("count"),
        average_busbw_gb_s=_bandwidth(average["bandwidth"]) if average else None,
        failure=error_text or (None if average else f"average_bus_bandwidth is absent: {CUT_OFF}"),
    )
    for index, result in enumerate(data["results"]):
        for key, in_place in (("out_of_place", False), ("in_place", True)):
            body = result.get(key)
            if body is None:
                continue
            try:
                run.rows.append(_from_json(result, body, in_place, (result.get(f"{key}_per_iter") or {})))
            except (KeyError, TypeError, ValueError) as error:
                raise refuse(f"result {index}, {key}: {type(error).__name__} {error}") from error
    return run


def _name(program: str) -> str:
    """The collective of a program's path: `/x/all_reduce_perf`, or `all_reduce_perf_mpi` as some package it."""
    return program.rpartition("/")[2].removesuffix("_mpi").removesuffix("_perf")


def _shape(label: str) -> str:
    """A pattern of labels that differ in their numbers and words alone: `[1,0]<stdout>:`, `3: `, `(head, pid=7) 0:`."""
    parts = re.findall(r"\d+|[^\W\d_]+|\s+|.", label)
    kinds = ((r"\d+", r"\d+"), (r"[^\W\d_]+", r"[^\W\d_]+"), (r"\s+", r"\s+"))
    return "".join(next((one for kind, one in kinds if re.fullmatch(kind, part)), re.escape(part)) for part in parts)


def _bandwidth(value: Any) -> float | None:
    return None if value in (None, "nan") else float(value)


def _from_json(
    result: Mapping[str, Any], body: Mapping[str, Any], in_place: bool, iterations: Mapping[str, Any]
) -> Measurement:
    times: Sequence[float] = iterations.get("times_us", ())
    root = int(result["root"])
    return Measurement(
        size_bytes=int(result["size"]),
        count=int(result["count"]),
        dtype=result["type"],
        redop=None if result["redop"] == "none" else result["redop"],
        root=None if root < 0 else root,
        in_place=in_place,
        time_us=float(body["cpu_time"] if "cpu_time" in body else body["time"]),
        algbw_gb_s=float(body["alg_bw"]),
        busbw_gb_s=float(body["bus_bw"]),
        wrong=None if body["nwrong"] is None else float(body["nwrong"]),
        cpu_time="cpu_time" in body,
        times_us=tuple(float(time) for time in times),
    )
