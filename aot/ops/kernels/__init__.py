"""Triton kernels, one module per operation; importing them needs triton, so `aot.ops` does it on demand."""
