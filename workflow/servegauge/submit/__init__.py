"""How an order reaches a node and its outcome comes back: one file per backend. Never imports `launch`."""
