"""A format of recordings that nobody needs: seconds, tokens of the prompt and tokens of the answer in a line."""

from servegauge.workloads.recording import Format, Recorded


def _read(path, spec):
    for line in path.read_text(encoding="utf-8").splitlines():
        at_s, asked, answer = line.split()
        yield Recorded(float(at_s) * (spec.get("block_tokens") or 1), int(asked), int(answer))


MADE_UP = Format("made_up_traffic", "made-up traffic", _read, ("block_tokens",))
