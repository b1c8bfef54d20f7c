"""Tokens against time: how many each frame kept, and how they add up."""

import numpy as np
from matplotlib.axes import Axes

from .scene import Scene
from .style import CLIP_TINTS, FAINT, INK, look


def counts_chart(ax: Axes, scene: Scene, *, now: int | None = None) -> None:
    """Bars of the tokens kept in each frame by kind, on clips as tinted bands; `now` marks a frame."""
    _prepare(ax, scene)
    low = np.zeros(len(scene.times))
    width = 0.72 * _spacing(scene)
    for kind in scene.kinds:
        ax.bar(scene.times, scene.counts[:, kind], width, bottom=low, color=look(scene, kind).color, zorder=2)
        low = low + scene.counts[:, kind]
    for time, count in zip(scene.times, low, strict=True):
        if len(low) <= 32:
            ax.text(time, count, f"{count:.0f}", ha="center", va="bottom", fontsize=8, color=INK, zorder=5)
    even = scene.after / len(low)
    ax.axhline(even, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=1)
    ax.text(1.005, even, "even\nshare", transform=ax.get_yaxis_transform(), fontsize=7.5, va="center", color=FAINT)
    ax.set(ylabel="tokens kept\nin the frame", ylim=(0, max(low.max(), even) * 1.22))
    if now is not None:
        ax.axvline(scene.times[now], color=INK, lw=1.5, zorder=4)


def total_chart(ax: Axes, scene: Scene) -> None:
    """Tokens so far with all of them and with the kept ones, against time."""
    _prepare(ax, scene)
    per_frame = scene.grid[0] * scene.grid[1]
    half = _spacing(scene) / 2
    edge = np.append(scene.times[0] - half, scene.times + half)
    whole = np.arange(len(scene.times) + 1) * per_frame
    kept = np.append(0, scene.counts.sum(1).cumsum())
    for line, color, style, text in (
        (whole, FAINT, (0, (4, 3)), f"all: {scene.before}"),
        (kept, INK, "-", f"kept: {scene.after}"),
    ):
        ax.plot(edge, line, color=color, ls=style, lw=1.8, zorder=2)
        ax.annotate(
            text, (edge[-1], line[-1]), (-4, 4), textcoords="offset points", ha="right", fontsize=8.5, color=color
        )
    ax.set(ylabel="tokens\nso far", ylim=(0, scene.before * 1.2), xlabel="time in the video, s")


def _spacing(scene: Scene) -> float:
    """Seconds between frames."""
    return float(np.median(np.diff(scene.times))) if len(scene.times) > 1 else 1.0


def _prepare(ax: Axes, scene: Scene) -> None:
    """Axes over the whole time, with bands behind the clips."""
    half = _spacing(scene) / 2
    for number, (start, end) in enumerate(() if scene.clips is None else scene.clips):
        left, right = scene.times[start] - half, scene.times[end - 1] + half
        ax.axvspan(left, right, color=CLIP_TINTS[number % 2], zorder=0, lw=0)
    ax.set_xlim(scene.times[0] - half, scene.times[-1] + half)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.yaxis.label.set_size(9)
    ax.xaxis.label.set_size(9)
