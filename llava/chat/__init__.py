"""Talking to a model about a video: `session` holds the logic, `chat` the terminal, `web` the page."""
