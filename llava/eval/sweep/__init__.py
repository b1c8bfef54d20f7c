"""Sweeps: models × method settings × tasks, run to the end, resumed after a kill, turned into tables."""
