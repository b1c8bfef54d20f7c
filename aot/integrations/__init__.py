"""Models that `aot.apply` knows: `llava` and `hf_onevision`, none of them imported before it is needed."""
