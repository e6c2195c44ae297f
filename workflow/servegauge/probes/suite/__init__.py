"""One file per probe of a platform."""
