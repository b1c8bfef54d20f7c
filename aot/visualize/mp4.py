"""The video again, one still per sampled frame, with what was kept of it and why."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib.figure import Figure

from .grid import legend_items, rows_of
from .panels import TITLES, draw_panel, pixels
from .scene import Scene
from .style import INK, caption, headline
from .timeline import counts_chart

SECONDS = 1.0  # that each sampled frame is shown
RATE = 8  # pictures a second, so that every player can seek
DPI = 100


def write_mp4(scene: Scene, path: Path) -> None:
    """Writes an H.264 MP4 of 1280×720 pixels; every sampled frame stays for a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "tune": "stillimage"}
        number = 0
        for t in range(len(scene.frames)):
            picture = still(scene, t)
            for _ in range(int(SECONDS * RATE)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode())


def still(scene: Scene, t: int) -> np.ndarray:
    """(720, 1280, 3) uint8: one frame, its panels, the legend and the tokens against time."""
    figure = Figure(figsize=(12.8, 7.2), dpi=DPI, facecolor="white")
    rows = rows_of(scene)
    figure.text(0.03, 0.95, headline(scene), fontsize=15, weight="bold", color=INK, va="center")
    figure.text(0.03, 0.905, caption(scene, t), fontsize=12, color=INK, va="center")
    panels = ["frame", *rows]
    each = 0.94 / len(panels)
    for number, name in enumerate(panels):
        ax = figure.add_axes((0.03 + number * each, 0.37, each - 0.012, 0.46))
        draw_panel(ax, scene, t, name)
        ax.set_title(TITLES[name], fontsize=11, color=INK)
    figure.legend(
        handles=legend_items(scene, rows), loc="upper left", bbox_to_anchor=(0.02, 0.365), ncols=3, frameon=False,
        fontsize=8, handlelength=1.5, columnspacing=1.5,
    )  # fmt: skip
    chart = figure.add_axes((0.08, 0.075, 0.87, 0.13))
    counts_chart(chart, scene, now=t)
    chart.set_xlabel("time in the video, s", fontsize=9)
    return pixels(figure)
