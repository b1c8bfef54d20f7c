"""`scripts/infer.sh`'s job and its workers."""
