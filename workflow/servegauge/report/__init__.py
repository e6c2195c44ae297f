"""The answer: figures, page, terminal."""
