"""What another environment's interpreter runs, as files: they import nothing of servegauge but their neighbours."""
