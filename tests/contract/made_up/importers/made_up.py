"""An importer that nobody needs: a line per request, with its latency in seconds."""

from servegauge.exchange.formats import Importer, imported


class MadeUp(Importer):
    name = "made-up-import"
    reads = "made-up: a latency a line"

    def recognises(self, path):
        return path.suffix == ".made-up"

    def requests(self, path):
        about = {"cell": "c", "launch": "l", "phase": "window", "status": "ok", "sent_ns": 0}
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            end = round(float(line) * 1e9)
            rows.append({**about, "request": number, "last_ns": end, "end_ns": end, "chunk_ns": [end]})
        return imported(rows), ["made-up note"]
