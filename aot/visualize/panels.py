"""One frame in one set of matplotlib axes: what was kept, why, and where the rest went."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..types import TokenKind
from .scene import Scene
from .style import EARLIER, HEAT, INK, LATER, UNMIXED, look

TITLES = {"frame": "the frame", "kept": "kept", "why": "why: bright is high", "merged": "where the rest went"}


def pixels(figure: Figure) -> np.ndarray:
    """(h, w, 3) uint8 picture of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_panel(ax: Axes, scene: Scene, t: int, name: str) -> None:
    """A panel by its name: "frame", "kept", "merged", "why" (the first map that the method has), or a map's own."""
    match name:
        case "frame":
            _show(ax, scene, scene.frames[t])  # as the model's tower sees it
        case "kept":
            kept_panel(ax, scene, t)
        case "merged":
            merged_panel(ax, scene, t)
        case _:  # bright is high, on the scale of the whole video
            values = scene.maps[next(iter(scene.maps)) if name == "why" else name]
            high = float(np.quantile(values, 0.99)) or 1.0
            _show(ax, scene, values[t], cmap=HEAT, vmin=float(values.min()), vmax=high)
            _outline(ax, scene, t, color="white")


def kept_panel(ax: Axes, scene: Scene, t: int) -> None:
    """The kept cells in full colour with the outline and mark of their kind; the others faded."""
    _show(ax, scene, kept_picture(scene, t))
    _outline(ax, scene, t)
    size = _cell_points(ax, scene)
    for kind in scene.kinds:
        style = look(scene, kind)
        row, column = np.nonzero(scene.kind[t] == kind)
        mark = min(max(0.3 * size, 1.8), 7)
        ax.plot(
            column + 0.22, row + 0.24, style.mark, ms=mark, color=style.color, mec="white", mew=0.12 * mark, ls="none"
        )  # fmt: skip


def kept_picture(scene: Scene, t: int) -> np.ndarray:
    """(h, w, 3) uint8 frame that is grey and pale wherever nothing was kept."""
    faded = _faded(scene.frames[t])
    kept = scene.kind[t] >= 0
    rows, columns = (
        np.arange(pixels) * cells // pixels for pixels, cells in zip(faded.shape, kept.shape, strict=False)
    )
    return np.where(kept[rows[:, None], columns][..., None], scene.frames[t], faded)


def merged_panel(ax: Axes, scene: Scene, t: int) -> None:
    """An arrow from every cell to the kept one of this frame that took most of it; tints and triangles for those
    of earlier and later frames. On the kept ones, how many tokens of the video each stands for.
    """
    _show(ax, scene, _faded(scene.frames[t]))
    height, width = scene.grid
    target = scene.target[t]
    row, column = np.nonzero(target >= 0)
    to = target[row, column]
    frame, to_row, to_column = to // (height * width), to // width % height, to % width
    size = _cell_points(ax, scene)
    here = frame == t
    along = np.stack([to_column - column, to_row - row]).astype(float)
    along *= 1 - 0.5 / np.abs(along).max(axis=0).clip(1)  # up to the edge of the kept cell
    ax.quiver(
        column[here] + 0.5, row[here] + 0.5, along[0, here], along[1, here],
        angles="xy", scale_units="xy", scale=1.0, color=INK if scene.blended else UNMIXED, units="dots",
        width=max(0.06 * size, 0.6), headwidth=5, headlength=6, headaxislength=5.5, minlength=0,
    )  # fmt: skip
    for side, color, mark in ((frame < t, EARLIER, "<"), (frame > t, LATER, ">")):
        boxes = [Rectangle((x, y), 1, 1) for x, y in zip(column[side], row[side], strict=True)]
        ax.add_collection(PatchCollection(boxes, facecolor=color, alpha=0.45, edgecolor="none"))
        ax.plot(column[side] + 0.5, row[side] + 0.5, mark, ms=min(0.4 * size, 7), color=INK, mew=0, ls="none")
    _outline(ax, scene, t, filled=True)
    if size >= 9:
        for y, x in zip(*np.nonzero(scene.kind[t] >= 0), strict=True):
            text = f"{scene.mass[t, y, x]:.0f}"
            ax.text(x + 0.5, y + 0.53, text, ha="center", va="center", fontsize=min(0.5 * size, 9), color=INK)


def _outline(ax: Axes, scene: Scene, t: int, *, color: str | None = None, filled: bool = False) -> None:
    """Boxes around the kept cells of a frame."""
    width = min(max(0.09 * _cell_points(ax, scene), 0.7), 2.2)
    for kind in scene.kinds:
        inset = 0.04
        boxes = [
            Rectangle((x + inset, y + inset), 1 - 2 * inset, 1 - 2 * inset)
            for y, x in zip(*np.nonzero(scene.kind[t] == kind), strict=True)
        ]
        edge = color or look(scene, kind).color
        style = "--" if kind == TokenKind.DYNAMIC else "-"
        face = (1, 1, 1, 0.85) if filled else "none"
        ax.add_collection(PatchCollection(boxes, facecolor=face, edgecolor=edge, linewidth=width, linestyle=style))


def _show(ax: Axes, scene: Scene, picture: np.ndarray, **style: Any) -> None:
    """A picture in bare axes whose unit is a cell, at the frame's own proportions."""
    rows, columns = scene.grid
    height, width = scene.frames.shape[1:3]
    aspect = (height / rows) / (width / columns)
    ax.imshow(picture, extent=(0, columns, rows, 0), aspect=aspect, interpolation="nearest", **style)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(color="#BBBBBB", linewidth=0.6)


def _cell_points(ax: Axes, scene: Scene) -> float:
    """Shorter side of a cell in points, for sizes of marks and lines."""
    box = ax.get_position()
    across, down = ax.figure.get_size_inches() * 72 * (box.width, box.height)
    rows, columns = scene.grid
    height, width = scene.frames.shape[1:3]
    scale = min(across / width, down / height)
    return min(scale * width / columns, scale * height / rows)


def _faded(picture: np.ndarray) -> np.ndarray:
    """Grey and pale."""
    grey = picture @ np.array([0.299, 0.587, 0.114])
    return np.repeat((255 - 0.32 * (255 - grey))[..., None], 3, axis=-1).astype(np.uint8)
