"""Videos of unknown length: frames are pushed in, tokens of closed clips come out, memory stays that of a clip."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from .clips import MAX_CLIP_TOKENS, clip_too_long, default_clip_length
from .compress import compress
from .config import AOTConfig
from .errors import AOTError
from .spatial_pooling import pooled_grid
from .types import CompressedVideo, TokenKind, joined_masks
from .validation import check_arguments, check_grid, count

STREAM_CLIP = 8  # frames of a clip when clip_length is None, for methods without a rule of their own


class VideoStream:
    """Compresses a video clip by clip under a running budget.

    After each closed clip max(1, ⌊retention · frames so far · P⌋) tokens are out in all. The method "aot" spends its
    budget so in a whole video as well, so both give the same tokens, but for a last clip that is shorter, where a
    few may differ; other methods see a clip at a time here.
    A clip is closed by the first frame after it, and joined with the next one while the budget holds no token
    for it; of a last clip without one only newlines are left. So clips are joined from the first one on, where
    `compress` joins them evenly when they outnumber its budget. What is held is a clip and a push.
    frames: how many there will be, at most. max_tokens needs it: its share of them all is the retention, as in a whole
    video. So no more than max_tokens are ever out, and fewer where the stream ends early.
    Other arguments as in `compress`. Raises AOTError for settings that need the whole video.
    """

    def __init__(
        self,
        config: AOTConfig | Mapping,
        *,
        pool: str | None = "bilinear",
        newline: torch.Tensor | None = None,
        newline_position: str = "grid",
        grid: tuple[int, int] | None = None,
        frames: int | None = None,
    ):
        self.config = config if isinstance(config, AOTConfig) else AOTConfig.from_dict(config)
        if self.config.num_anchors is not None:
            raise AOTError("A stream keeps a running budget; use a preset with a retention.")
        if self.config.max_tokens is not None and frames is None:
            raise AOTError(
                "max_tokens is shared out over a whole video, and a stream does not know its length; give frames, how "
                "many there will be, or set a retention instead."
            )
        if self.config.clips != "uniform":
            raise AOTError("A stream is cut evenly; set clips='uniform' and a clip_length.")
        self._newline, self._position = newline, newline_position
        self._settings: dict[str, Any] = {"pool": pool, "newline_position": newline_position, "grid": grid}
        self._most_frames = None if frames is None else count("frames", frames, 1)
        self._frames, self._kept, self._finished = 0, 0, False
        self._pending: dict[str, torch.Tensor] = {}
        self._before: torch.Tensor | None = None

    def push(
        self,
        features: torch.Tensor,
        shallow: torch.Tensor | None = None,
        deep: torch.Tensor | None = None,
        *,
        extras: Mapping[str, torch.Tensor] | None = None,
    ) -> list[CompressedVideo]:
        """Takes further frames, features (T, N, D) and maps (T, N); returns the clips that are closed by now.

        Frame numbers in the results count from the start of the stream. A push that raises an error takes no frame: the
        stream goes on as if it had not been.
        """
        if self._finished:
            raise AOTError("This stream is finished; make a new one for another video.")
        named = {"features": features, "shallow": shallow, "deep": deep}
        check_arguments(features, named, extras)
        new = {**named, **(extras or {})}
        new = {name: value for name, value in new.items() if value is not None or name == "features"}
        if self._pending and new.keys() != self._pending.keys():
            raise AOTError(f"The stream began with {', '.join(self._pending)}; push the same again.")
        held = self._pending
        for name, value in new.items():
            if not isinstance(value, torch.Tensor) or value.dim() < 2:
                raise AOTError(f"{name} is no tensor of frames; push (T, N, D) features and (T, N) maps.")
            if held and _form(value) != _form(held[name]):
                raise AOTError(f"{name} differs in shape, dtype or device from what was pushed; push the same again.")
            if len(value) != len(features):
                raise AOTError(f"{name} has {len(value)} frames and features {len(features)}; push as many of each.")
        if self._most_frames is not None and self._frames + self._held() + len(features) > self._most_frames:
            raise AOTError(f"The stream was said to have {self._most_frames} frames and more came; raise frames.")
        state = dict(vars(self))
        try:
            return self._take(new)
        except BaseException:
            vars(self).update(state)
            raise

    def _take(self, new: Mapping[str, torch.Tensor]) -> list[CompressedVideo]:
        held = self._pending
        self._pending = {name: torch.cat([held[name], value]) if held else value for name, value in new.items()}
        usual = default_clip_length(self._tokens_per_frame()) if self.config.method == "aot" else STREAM_CLIP
        whole = self.config.clip_length or usual
        closed, length = [], whole
        while self._held() > length:
            if self._budget(length):
                closed.append(self._close(length, last=False))
                length = whole
            else:
                length += whole
                per_frame = self._tokens_per_frame()
                if self.config.method == "aot" and length * per_frame > MAX_CLIP_TOKENS:
                    raise clip_too_long([length], 1, per_frame, self._shared())
        return closed

    def finish(self) -> list[CompressedVideo]:
        """The last clip; the stream takes no frames after it. Empty when no frame is left."""
        self._finished, held = True, self._held()
        return [self._close(held, last=True)] if held else []

    def _held(self) -> int:
        return self._pending["features"].shape[0] if self._pending else 0

    def _tokens_per_frame(self) -> int:
        grid = check_grid(self._pending["features"].shape[1], self._settings["grid"])
        height, width = pooled_grid(grid, self._settings["pool"])
        return height * width

    def _budget(self, frames: int) -> int:
        """Tokens that the next clip of so many frames may keep; 0 while the running budget has none."""
        return self._shared().budget(self._frames + frames, self._tokens_per_frame()) - self._kept

    def _shared(self) -> AOTConfig:
        """The settings with the retention by which the stream's clips share its budget."""
        frames = self._most_frames
        return self.config if frames is None else self.config.on_video(frames, self._tokens_per_frame())

    def _close(self, frames: int, *, last: bool) -> CompressedVideo:
        part = {name: value[:frames] for name, value in self._pending.items()}
        kept, per_frame = self._budget(frames), self._tokens_per_frame()
        # the retention whose budget is that count; of a last clip for which no token is left only newlines stay
        share = self.config.replace(max_tokens=max(1, kept), retention=None).on_video(frames, per_frame).retention
        config = self.config.replace(max_tokens=None, retention=share)
        newline = self._newline if last or self._position != "one_token" else None
        result = compress(
            part.pop("features"),
            config=config,
            newline=newline,
            extras=part,
            before=self._before,
            first_frame=self._frames,
            **self._settings,
        )
        if not kept:
            result = tokens_at(result, result.kind == TokenKind.NEWLINE)
            result = replace(result, budget=None if result.budget is None else 0)
        # clones, so that what was pushed can be freed
        self._before = self._pending["features"][frames - 1 : frames].clone()
        self._pending = {name: value[frames:].clone() for name, value in self._pending.items()}
        result = replace(result, config=self.config, whole_frames=self._most_frames, clips=[frames])
        self._frames += frames
        self._kept += kept
        return result


def _form(values: torch.Tensor) -> tuple:
    return values.shape[1:], values.dtype, values.device


def append_parts(parts: list[CompressedVideo], new: Sequence[CompressedVideo]) -> None:
    """Appends closed clips to parts, joined with earlier ones so that few tensors live, each beside larger ones.

    After n clips about log2(n) parts are left, for `join`. Many small tensors that stay would lie scattered among the
    large ones that come and go, and the process's memory would grow by several times what is kept.
    """
    for part in new:
        parts.append(part)
        while len(parts) > 1 and len(parts[-1].tokens) >= len(parts[-2].tokens):
            parts[-2:] = [join(parts[-2:])]


PER_TOKEN = ("tokens", "frame", "position", "kind", "mass")


def tokens_at(video: CompressedVideo, places: torch.Tensor | slice) -> CompressedVideo:
    """The video with the tokens at these places alone; places: indices, a mask (S,) or a slice."""
    return replace(video, **{name: getattr(video, name)[places] for name in PER_TOKEN})


def join(parts: Sequence[CompressedVideo]) -> CompressedVideo:
    """The clips of one stream, in its order, as one video. Raises AOTError for none, and where one is missing."""
    if not parts:
        raise AOTError("No frame was pushed; there is nothing to join.")
    for part, later in pairwise(parts):
        if later.first_frame != part.first_frame + part.frames:
            raise AOTError(
                f"A part that begins with frame {later.first_frame} does not go on behind one that ends before frame "
                f"{part.first_frame + part.frames}; join the clips of one stream in their order, and give the model "
                "separate videos one by one."
            )
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in PER_TOKEN}
    clips = [length for part in parts for length in part.clips or [part.frames]]
    usable = joined_masks(parts)
    budget = None if parts[0].budget is None else sum(part.budget or 0 for part in parts)
    return replace(parts[0], frames=sum(clips), clips=clips, trace=None, usable=usable, budget=budget, **joined)
