"""What must be on disk before a server can start: models and their shapes, the hub, environments, containers."""
