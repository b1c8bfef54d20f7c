"""Sitting the held-out exam: its items, how they are asked under a setting, how replies are scored."""
