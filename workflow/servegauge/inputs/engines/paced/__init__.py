"""A mock OpenAI-compatible server whose truth is known."""
