"""A probe that nobody needs: a constant."""

from typing import ClassVar

from servegauge.probes.harness.base import Case, Measured, Probe


class MadeUp(Probe):
    name = "made_up_probe"
    title = "Made-up"
    measures = "made-up: a constant and its double"
    units: ClassVar = {"made_up_us": "us", "made_up_double_us": "us"}
    primary = ("made_up_us",)

    def cases(self, context):
        def measure():
            return [Measured("made_up_us", [7.0] * 9), Measured("made_up_double_us", [14.0] * 9)]

        yield Case({"operation": "nothing"}, "made_up_us", measure)

    def explains(self, variant, cells):
        return f"made-up: {len(cells)} cells"
