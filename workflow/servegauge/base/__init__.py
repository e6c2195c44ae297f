"""Files, errors, processes, text and clocks; knows nothing of serving."""
