"""One server lifetime on a node: servers, cells, recorders, flags, provenance."""
