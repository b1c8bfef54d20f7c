"""What one question cost: token counts and seconds, read off the model while the stock wrapper runs."""

import time
from typing import Any

import torch


class PromptTooLong(ValueError):
    """The prompt fills all that the model takes, so its end, and with it the question, may have been cut off."""


class Measure:
    """Clock and counters of the question under way; `start` sets them back.

    failure: why a video could not be read, None as long as nothing went wrong. frames: of each video. prompt: tokens
    of the prompt, visual ones included. images, text: images beside the videos, and text tokens of the prompt, of a
    question about several visuals.
    """

    def __init__(self, model):
        self.model = model
        model.register_forward_pre_hook(self._prompt, with_kwargs=True)
        model.lm_head.register_forward_hook(self._token)
        self.start()

    def start(self) -> None:
        self.begun = self.shown = time.perf_counter()
        self.frames: list[int] = []
        self.failure = None
        self.decode, self.first, self.generated = 0.0, None, 0
        self.prompt = self.images = self.text = 0
        self.reset()

    def reset(self) -> None:
        """Sets back what is counted inside the model."""
        self.model.reset_statistics()

    def decoded(self, frames: int, seconds: float) -> None:
        """A video of so many frames was read in so many seconds."""
        self.frames.append(frames)
        self.decode += seconds
        self.shown = time.perf_counter()

    def stages(self) -> dict[str, float]:
        """Seconds of tower, projector and compress, as far as they took part."""
        return {name: milliseconds / 1e3 for name, milliseconds in self.model.last_timing.items()}

    def seconds(self) -> dict[str, float]:
        """decode, the stages, first_token (from the frames, or the prompt, to it) and total."""
        first = {} if self.first is None else {"first_token": self.first - self.shown}
        total = time.perf_counter() - self.begun
        return {k: round(v, 6) for k, v in {"decode": self.decode, **self.stages(), **first, "total": total}.items()}

    def tokens(self) -> dict[str, Any]:
        """Counts over all videos of a question; of one without a video only what was generated.

        Of several videos also each by itself in "videos"; beside images their number and tokens, which are never
        reduced. Where tokens were dropped inside the language model, the share that its layers saw on average.
        tower_share: of the tower's counted operations those that were spent.
        """
        videos = self.videos()
        if not videos:
            return {"generated": self.generated}
        total = {name: sum(video[name] for video in videos) for name in videos[0]}
        pruned = getattr(self.model, "last_pruning", ())  # models of transformers drop none inside
        several = {"videos": videos} if len(videos) > 1 else {}
        if self.images and self.text:
            image_tokens = self.prompt - self.text - total["visual"] - total["newlines"]
            several |= {"images": self.images, "image_tokens": image_tokens}
        inside = {"layer_average": round(pruned[-1].layer_average, 6)} if pruned else {}
        spent, whole = getattr(self.model, "last_tower_flops", (0, 0))  # of LlavaQwenForCausalLM
        inside |= {"tower_share": round(spent / whole, 6)} if whole else {}
        return {**total, **several, **inside, "generated": self.generated}

    def videos(self) -> list[dict[str, int]]:
        """Counts of each video; all tokens where nothing was reduced, or before it was."""
        found, compressed = [], self.model.last_compression
        for number, frames in enumerate(self.frames):
            before, newlines_before = self.model.uncompressed_count(frames)
            after, newlines = before, newlines_before
            if number < len(compressed):
                after, newlines = compressed[number].num_visual, compressed[number].num_newlines
            found.append({
                "frames": frames, "visual_before": before, "newlines_before": newlines_before,
                "visual": after, "newlines": newlines,
            })  # fmt: skip
        return found

    def _prompt(self, _, positional, named) -> None:
        """Before every step of the model: the first one brings the prompt."""
        inputs = named.get("inputs_embeds")
        if inputs is None or inputs.shape[1] <= 1:
            return
        self.prompt = inputs.shape[1]
        most = getattr(self.model.config, "tokenizer_model_max_length", None)
        if most is not None and self.prompt >= most:
            raise PromptTooLong(f"The prompt fills all {most} tokens that the model takes; use fewer frames.")

    def _token(self, *_) -> None:
        self.generated += 1
        if self.first is None:
            if self.model.device.type == "cuda":
                torch.cuda.synchronize(self.model.device)
            self.first = time.perf_counter()


def retention(tokens: dict[str, Any]) -> dict[str, float] | None:
    """Shares of the tokens that stayed, newline tokens left out and counted; None without a video."""
    if "visual" not in tokens:
        return None
    before, newlines_before = tokens["visual_before"], tokens["newlines_before"]
    after, newlines = tokens["visual"], tokens["newlines"]
    return {"visual": after / before, "with_newlines": (after + newlines) / (before + newlines_before)}
