"""Readers that turn a video file or a folder of pictures into chosen frames; `llava.video` is the entry."""
