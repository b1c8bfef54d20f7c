"""Projectors from tower width to language model width."""
