"""How much of a real video the kept tokens still explain, no language model asked: `python -m benchmarks.footage`."""
