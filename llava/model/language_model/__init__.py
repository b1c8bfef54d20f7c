"""Language models with vision spliced in."""
