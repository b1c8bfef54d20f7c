"""Models that `aot.apply` knows, one module each; none of them is imported before it is needed."""
