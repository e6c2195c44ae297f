"""What nccl-tests printed, text or JSON, as rows: read by the table's own header, refused where it is not understood.

Read from the sources of nccl-tests (github.com/NVIDIA/nccl-tests, 2019 to 2.19.6: src/common.cu, src/util.cu). The
text's columns have changed several times (a root column, `error` became `#wrong`, timestamps, per-iteration columns),
and each table says in its header which it has. Lines of NCCL_DEBUG may lie between, even inside a row. A file may hold
several runs. Every other line is an error with its number and the reason: a guess would become a number in a dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KNOWN_JSON_VERSIONS = (1, 2, 3)

# First words of a row, in the order in which a header may name them
LEADING = ("size", "count", "type", "redop", "root")
# The units line below a header, for each column; a table in other units is another format (2017's was in ms)
UNITS = {
    "size": "(B)", "count": "(elements)", "time": "(us)", "cputime": "(us)", "algbw": "(GB/s)", "busbw": "(GB/s)",
    "i_min": "(us)", "i_max": "(us)", "i_p99": "(us)", "i_cv%": "(%)",
}  # fmt: skip
DEBUG = re.compile(
    r"(\[\d{4}-\d\d-\d\d[ T][\d:.]+\] )?[\w.-]+:\d+:\d+ \[[\d, -]+\] .*|NCCL version \d.*", re.ASCII
)  # fmt: skip
DEVICE = re.compile(
    r"#\s+Rank\s+(?P<rank>\d+)(?:\s+Group\s+(?P<group>\d+))?\s+Pid\s+\d+ on\s+(?P<host>\S+)\s+device\s+(?P<device>\d+)"
    r" \[(?P<pci>[0-9a-fA-Fx:]+)\] (?P<model>.+)"
)
FAILURE = re.compile(r"Test (NCCL|CUDA) failure|Test failure|Test timeout|NCCL failure|CUDA failure|Out of memory")
SETTINGS = re.compile(r"# nThread (\d+) nGpus (\d+) minBytes (\d+) maxBytes (\d+) step: (\d+)\((factor|bytes)\) (.*)")
NULL_BODY = re.compile(r"\S {32,}")  # out-of-place left blank: trace replay measures in-place only


class NcclOutputError(ValueError):
    """A line that is not understood. The text names the source, the line's number, the line and the reason."""


@dataclass(frozen=True)
class Device:
    """One rank's GPU."""

    rank: int
    host: str
    device: int
    pci: str
    model: str


@dataclass(frozen=True)
class Measurement:
    """One size, one placement. Time in microseconds, bandwidths in 10^9 bytes per second.

    `wrong` is the number of wrong elements, null where the test did not check (`N/A`). Builds before 2.12 print a
    largest relative error instead: it is `error` then, and `wrong` is null. `times_us` are the single iterations where
    the build writes them (-I 1), else empty: `time_us` is then a mean over `Run.iterations`.
    """

    size_bytes: int
    count: int
    dtype: str
    redop: str | None
    root: int | None
    in_place: bool
    time_us: float
    algbw_gb_s: float
    busbw_gb_s: float
    wrong: float | None = None
    error: float | None = None
    cpu_time: bool = False
    times_us: tuple[float, ...] = ()


@dataclass
class Run:
    """One test of one collective. `collective` is null where an old build does not print its own name."""

    line: int
    collective: str | None = None
    version: str | None = None
    nccl_version: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    rows: list[Measurement] = field(default_factory=list)
    out_of_bounds: int | None = None
    average_busbw_gb_s: float | None = None
    failure: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        return len(self.devices)

    @property
    def hosts(self) -> int:
        return len({device.host for device in self.devices})

    @property
    def iterations(self) -> int | None:
        return self.settings.get("iters")


def busbw_factor(collective: str, ranks: int) -> float:
    """busbw / algbw, as nccl-tests defines it (doc/PERFORMANCE.md): what crosses the slowest link, over the size.

    ValueError for a collective it does not define.
    """
    if collective == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if collective in ("all_gather", "reduce_scatter", "all_to_all", "alltoall", "alltoallv", "gather", "scatter"):
        return (ranks - 1) / ranks
    if collective in ("broadcast", "reduce", "send_recv", "sendrecv", "hypercube"):
        return 1.0
    raise ValueError(f"nccl-tests defines no bus bandwidth for {collective!r}")


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
        self.units_seen = self.closed = False
        self.pending, self.number, self.line = "", 0, ""

    def refuse(self, reason: str) -> NcclOutputError:
        return NcclOutputError(f"{self.source}, line {self.number}: {reason}: {self.line[:200]!r}")

    def read(self, text: str) -> list[Run]:
        for self.number, raw in enumerate(text.splitlines(), start=1):
            self.line = raw.rstrip()
            self._one(self.line)
        self.line = "(end)"
        if self.pending:
            raise self.refuse("a row was begun and never ended")
        self._finish()
        if not self.runs:
            raise self.refuse("there is no nccl-tests table in it")
        return self.runs

    def _one(self, line: str) -> None:
        if not line.strip() or DEBUG.fullmatch(line.strip()):
            return
        if FAILURE.search(line) and not line.startswith("#"):
            self._open().failure = self._open().failure or line.strip()
        elif line.startswith("#"):
            self._comment(line)
        else:
            self._row(line)

    def _open(self) -> Run:
        if self.run is None:
            self.run = Run(line=self.number)
            self.columns, self.units_seen, self.closed = None, False, False
        return self.run

    def _finish(self) -> None:
        """Close the run at hand; one that has rows must have ended as nccl-tests ends one."""
        run, self.run = self.run, None
        if run is None:
            return
        if run.failure is None:
            if self.columns is None:
                if run.devices or run.settings:
                    raise self.refuse(f"the run of line {run.line} has no table")
                return  # only comments
            if run.average_busbw_gb_s is None:
                raise self.refuse(f"the run of line {run.line} ends without 'Avg bus bandwidth': it was cut off")
            if not run.devices:
                raise self.refuse(f"the run of line {run.line} names no devices, so its ranks are unknown")
        self.runs.append(run)

    def _comment(self, line: str) -> None:
        words = line[1:].split()
        if not words:
            return
        first = " ".join(words[:2])
        starts = first in ("nccl-tests version", "Collective test") and words[2:3] != ["concluded:"]
        if (starts or words[0] == "nThread") and self.run is not None and (self.closed or self.columns is not None):
            self._finish()
        run = self._open()
        if first == "nccl-tests version":
            run.version = words[2]
            library = [word.partition("=")[2] for word in words if word.startswith("nccl-library=")]
            run.nccl_version = library[0] if library else None
        elif line.startswith("# Collective test starting:"):
            run.collective = words[-1].removesuffix("_perf")
        elif line.startswith("# Collective test concluded:"):
            if run.collective != words[-1].removesuffix("_perf"):
                raise self.refuse(f"the end of another test than {run.collective}")
        elif words[0] == "nThread":
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
            run.average_busbw_gb_s = self._number(words[4], "average")
            self.closed = True
        elif line.startswith("# error:"):
            run.failure = line[2:]
        else:
            run.notes.append(line[1:].strip())

    def _settings(self, line: str) -> None:
        match = SETTINGS.fullmatch(line)
        if not match:
            raise self.refuse("a line of settings in another form than known")
        settings = self._open().settings
        names = ("threads", "gpus_per_thread", "min_bytes", "max_bytes", "step")
        settings.update(zip(names, map(int, match.groups()[:5]), strict=True))
        settings["step_kind"] = match[6]
        for name, value in re.findall(r"([a-z_ ]+): (\d+)", match[7]):
            settings[name.strip().replace(" ", "_")] = int(value)

    def _device(self, line: str) -> None:
        match = DEVICE.fullmatch(line.rstrip())
        if not match:
            raise self.refuse("a rank's device in another form than known")
        run = self._open()
        if int(match["rank"]) != len(run.devices):
            raise self.refuse(f"rank {match['rank']} where rank {len(run.devices)} comes next")
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
        half = len(body) // 2
        known = ({"time", "cputime"}, {"algbw"}, {"busbw"}, {"error", "#wrong"})
        extra = ["i_min", "i_max", "i_p99", "i_cv%"]
        shape = half >= 4 and all(body[i] in allowed for i, allowed in enumerate(known))
        if len(body) % 2 or body[:half] != body[half:] or not shape or body[4:half] not in ([], extra):
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
        cut = re.match(r"(.*?\s)(\S+:\d+:\d+ \[\d+\] .*)", line)
        inside = re.match(r"(\s*\d+\s+\d+\s+\w+.*?)((?:[A-Za-z][\w.-]*):\d+:\d+ \[\d+\] .*)", line)
        if self.columns is not None and (inside or cut):
            self.pending += (inside or cut)[1]  # type: ignore[index]
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
        leading = len(columns) - 2 * self.half
        bodies = [(False, leading), (True, leading + self.half)]
        if len(tokens) == len(columns) - self.half and NULL_BODY.search(line):
            bodies = [(True, leading)]
        elif len(tokens) != len(columns):
            raise self.refuse(f"{len(tokens)} columns where the header has {len(columns)}")
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
        if not re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text):
            raise self.refuse(f"{name} is {text!r}, not a number")
        return float(text)


def parse_json(text: str, source: str = "nccl-tests JSON") -> Run:
    """The run in a file that `-J` wrote. The environment it holds is not kept: secrets lie in environments."""

    def refuse(reason: str) -> NcclOutputError:
        return NcclOutputError(f"{source}: {reason}")

    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise NcclOutputError(f"{source}, line {error.lineno}: not JSON ({error.msg}); was the test killed?") from error
    if data.get("version") not in KNOWN_JSON_VERSIONS:
        raise refuse(f"version {data.get('version')!r} of the format; known are {KNOWN_JSON_VERSIONS}")
    missing = [key for key in ("args", "config", "results", "average_bus_bandwidth") if key not in data]
    if missing:
        raise refuse(f"{', '.join(missing)} is absent: the test did not come to its end")
    config = dict(data["config"])
    devices = [
        Device(one["rank"], one["hostname"], one["device"], one["device_hex"], one["device_info"])
        for one in config.pop("devices", [])
    ]
    run = Run(
        line=1,
        collective=str(data["args"][0]).rpartition("/")[2].removesuffix("_perf"),
        nccl_version=str(data["nccl_version"]) if "nccl_version" in data else None,
        settings={**config, "iters": config.get("iterations")},
        devices=devices,
        out_of_bounds=(data.get("out_of_bounds") or {}).get("count"),
        average_busbw_gb_s=_bandwidth(data["average_bus_bandwidth"]["bandwidth"]),
        failure=next((error for error in data.get("errors", []) if error), None),
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
