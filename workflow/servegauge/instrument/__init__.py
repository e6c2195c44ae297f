"""The load generator, and its calibration against a server whose truth is known."""
