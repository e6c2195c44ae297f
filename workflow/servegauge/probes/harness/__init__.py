"""How probes run, repeat and are checked."""
