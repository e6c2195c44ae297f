"""`python -m servegauge.cli` is the `servegauge` command."""

from servegauge.cli.main import main

if __name__ == "__main__":
    main()
