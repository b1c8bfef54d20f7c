"""Talking to a model about a video: `session` holds the logic, `terminal` and `chat` the console."""
