"""Errors of checkpoints that must not be loaded."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with one sentence saying what to do."""


def check_loading_info(path, info: dict) -> None:
    """CheckpointError when parameters are missing from the checkpoint, unknown to the model, or of another
    shape.
    """
    for kind, meaning in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "holds unknown"),
        ("mismatched_keys", "holds, in another shape,"),
    ):
        keys = sorted(str(key) for key in info.get(kind, ()))
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(
                f"The checkpoint {path} {meaning} {keys[0]}{more}; download it again, or check that it is a "
                "SigLIP + Qwen2 checkpoint in LLaVA-NeXT's layout."
            )
