"""What records beside a cell: server metrics, node and GPU samples."""
