"""An exporter that nobody needs: the study's question."""

from servegauge.dataset import merge
from servegauge.exchange.formats import Exporter


class MadeUp(Exporter):
    name = "made-up-export"
    writes = "made-up: the question of the study"

    def export(self, results, study, out):
        question = next(row["question"] for row in merge.read(results, "studies").to_pylist() if row["study"] == study)
        out.mkdir(parents=True, exist_ok=True)
        (out / "question.txt").write_text(question, encoding="utf-8")
        return [out / "question.txt"]
