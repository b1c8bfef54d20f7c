"""How each family of checkpoints wants its video sampled."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """num_frames and fps as in `load_video`; tell_times puts the time sentence before the first question."""

    num_frames: int
    fps: float | None
    tell_times: bool


def default_sampling(config) -> Sampling:
    """Sampling by a model's configuration.

    A checkpoint may state `mm_video_frames`; otherwise newlines after every grid row mark LLaVA-Video (one
    frame a second, at most 64, times told) and everything else is sampled as LLaVA-OneVision (32 frames).
    """
    stated = getattr(config, "mm_video_frames", None)
    if stated:
        return Sampling(int(stated), None, False)
    if getattr(config, "mm_newline_position", None) == "grid":
        return Sampling(64, 1.0, True)
    return Sampling(32, None, False)
