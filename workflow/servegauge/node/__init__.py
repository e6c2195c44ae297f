"""What this machine is, what it should be, and what it does meanwhile."""
