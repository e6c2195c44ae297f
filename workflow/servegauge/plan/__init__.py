"""A study file becomes launches, cells, their order and their cost."""
