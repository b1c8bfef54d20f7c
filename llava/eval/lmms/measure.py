"""What one question cost: token counts and seconds, read off the model while the stock wrapper runs."""

import time

import torch

from aot import AOTConfig, pooled_grid
from llava.model.fields import pool_of


def uncompressed_tokens(model, frames: int) -> tuple[int, int]:
    """(visual, newline) tokens that a video of so many frames takes without reduction."""
    side = model.get_vision_tower().num_patches_per_side
    rows, columns = pooled_grid((side, side), pool_of(model.config))
    newline, position = model._video_newline()
    if newline is None:
        return frames * rows * columns, 0
    every = AOTConfig(newlines="all").newline_count(frames, rows * columns, newline_position=position, rows=rows)
    return frames * rows * columns, every


class Measure:
    """Clock and counters of the question under way; `start` sets them back.

    failure: why the video could not be read, None as long as nothing went wrong.
    """

    def __init__(self, model):
        self.model = model
        model.lm_head.register_forward_hook(self._token)
        self.start()

    def start(self) -> None:
        self.begun = self.shown = time.perf_counter()
        self.frames, self.failure = 0, None
        self.decode, self.first, self.generated = 0.0, None, 0
        self.model.reset_statistics()

    def decoded(self, frames: int, seconds: float) -> None:
        """A video of so many frames was read in so many seconds."""
        self.frames, self.decode, self.shown = frames, seconds, time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """decode, tower, projector, compress, first_token (from the frames, or the prompt, to it) and total."""
        stages = {name: milliseconds / 1e3 for name, milliseconds in self.model.last_timing.items()}
        first = {} if self.first is None else {"first_token": self.first - self.shown}
        total = time.perf_counter() - self.begun
        return {k: round(v, 6) for k, v in {"decode": self.decode, **stages, **first, "total": total}.items()}

    def tokens(self) -> dict[str, int | float]:
        """Counts of a question about a video; of one without a video only what was generated.

        Where tokens were dropped inside the language model, the share that its layers saw on average as well.
        """
        if not self.frames:
            return {"generated": self.generated}
        before, newlines_before = uncompressed_tokens(self.model, self.frames)
        after, newlines = before, newlines_before
        pruned = self.model.last_pruning
        inside = {"layer_average": round(pruned[-1].layer_average, 6)} if pruned else {}
        if self.model.last_compression:
            video = self.model.last_compression[-1]
            after, newlines = video.num_visual, video.num_newlines
        return {
            "frames": self.frames,
            "visual_before": before,
            "newlines_before": newlines_before,
            "visual": after,
            "newlines": newlines,
            **inside,
            "generated": self.generated,
        }

    def _token(self, *_) -> None:
        self.generated += 1
        if self.first is None:
            if self.model.device.type == "cuda":
                torch.cuda.synchronize(self.model.device)
            self.first = time.perf_counter()


def retention(tokens: dict[str, int]) -> dict[str, float] | None:
    """Shares of the tokens that stayed, newline tokens left out and counted; None without a video."""
    if "visual" not in tokens:
        return None
    before, newlines_before = tokens["visual_before"], tokens["newlines_before"]
    after, newlines = tokens["visual"], tokens["newlines"]
    return {"visual": after / before, "with_newlines": (after + newlines) / (before + newlines_before)}
