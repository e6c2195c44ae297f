"""The `servegauge` command, one file per subcommand, and what the Snakefile asks."""
