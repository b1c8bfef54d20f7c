"""Procedural clips and the questions about them."""
