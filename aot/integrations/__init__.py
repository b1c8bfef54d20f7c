"""Models that `aot.apply` knows, a family a file; none is imported before it is needed."""
