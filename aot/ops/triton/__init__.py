"""Triton kernels, a file for each operation of `aot.ops`, which imports them on demand: they need triton."""
