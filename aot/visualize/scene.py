"""A compressed video as the plain arrays that pictures are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import AOTError
from ..types import CompressedVideo, TokenKind
from .flow import find_flow

LARGEST = 320  # pixels of a frame's longer side in a picture
# maps that say why a token was kept, best first: the first one a method has is the row "why"
MAPS = {
    "global_score": "weight of a token",
    "score": "score of the method",
    "deep": "attention, deep layer",
    "shallow": "attention, shallow layer",
    "change": "change since the frame before",
    "local_score": "weight in the choice of local anchors",
}


@dataclass(frozen=True)
class Scene:
    """T frames of H·W pooled cells.

    frames: (T, h, w, 3) uint8. times: (T,) s. kind: (T, H, W) int of `TokenKind`, -1 where nothing was kept. mass:
    (T, H, W) pooled tokens that each kept one stands for. counts: (T, 3) emitted local, global and dynamic
    tokens. clips: (C, 2) first frame and the one behind the last, None without clips. target: (T, H, W) flat
    index of the kept token that a cell went to, -1 for none, None when unknown. blended: cells change the tokens they
    went to, which else count them in their mass alone. maps:
    (T, H, W) by the names of MAPS. before, after: visual tokens. settings: of the compression. anchors: kinds are
    the anchors of "aot".
    """

    frames: np.ndarray
    times: np.ndarray
    kind: np.ndarray
    mass: np.ndarray
    counts: np.ndarray
    clips: np.ndarray | None
    target: np.ndarray | None
    blended: bool
    maps: dict[str, np.ndarray]
    before: int
    after: int
    settings: dict[str, Any]
    anchors: bool

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W)."""
        return self.kind.shape[1:]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.settings["method"]

    @property
    def kinds(self) -> list[TokenKind]:
        """Kinds that occur, in the order of the legend."""
        return [kind for kind in (TokenKind.LOCAL, TokenKind.GLOBAL, TokenKind.DYNAMIC) if self.counts[:, kind].any()]

    def clip_of(self, frame: int) -> int | None:
        """Number of a frame's clip, from 0."""
        return None if self.clips is None else int(np.searchsorted(self.clips[:, 0], frame, side="right")) - 1


def make_scene(video: CompressedVideo, frames: np.ndarray, times: Sequence[float]) -> Scene:
    """Arrays for the pictures; AOTError when frames or times do not belong to the video."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise AOTError("frames must be a (T, height, width, 3) uint8 array of RGB pictures.")
    if len(frames) != video.frames or len(times) != video.frames:
        raise AOTError(
            f"The compressed video has {video.frames} frames; got {len(frames)} pictures and {len(times)} times."
        )
    height, width = video.grid
    shape = (video.frames, height, width)
    visual = (video.kind != TokenKind.NEWLINE).cpu().numpy()
    frame, kinds = video.frame.cpu().numpy()[visual], video.kind.cpu().numpy()[visual]
    row, column = video.position.cpu().numpy()[visual].T
    kind = np.full(shape, -1)
    kind[frame, row, column] = kinds
    mass = np.zeros(shape)
    np.add.at(mass, (frame, row, column), video.mass.cpu().numpy()[visual])
    counts = np.zeros((video.frames, 3), int)
    np.add.at(counts, (frame, kinds), 1)
    target = find_flow(video)
    ends = None if video.clips is None else np.cumsum(video.clips)
    config = video.config
    plain = config.method == "aot" and config.variant == "default"
    trace = video.trace or {}
    return Scene(
        frames=np.stack([thumbnail(picture) for picture in frames]),
        times=np.asarray(times, float),
        kind=kind,
        mass=mass,
        counts=counts,
        clips=None if ends is None else np.stack([ends - video.clips, ends], axis=1),
        target=None if target is None else target.numpy().reshape(shape),
        blended=not plain or min(config.merge_strength, config.merge_cap) > 0,
        maps={name: _finite(trace[name].float().cpu().numpy()).reshape(shape) for name in MAPS if name in trace},
        before=video.tokens_before,
        after=int(visual.sum()),
        settings=config.to_dict(),
        anchors=config.method == "aot",
    )


def _finite(values: np.ndarray) -> np.ndarray:
    """Infinite entries, which some methods use for always and never, as the highest and lowest of the others."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    return np.clip(np.nan_to_num(values, nan=low), low, high)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The picture (h, w, 3) uint8 with its longer side at most LARGEST pixels, as much as pictures show of it."""
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    return np.asarray(image)
