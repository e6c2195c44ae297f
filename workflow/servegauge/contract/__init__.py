"""What the parts hand to each other: specs, records, table schemas, and the registries of metrics and flags."""
