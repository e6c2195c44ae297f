"""Everything measured, as tidy Parquet, merged in place."""
