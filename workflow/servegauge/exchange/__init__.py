"""Other people's formats, in and out: a file each, found by looking into `exporters/` and `importers/`."""
