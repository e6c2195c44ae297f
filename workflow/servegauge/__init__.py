"""servegauge: what serving a large language model costs on a platform."""

__version__ = "0.1.0"
