"""All frames of a video in one picture, with its legend and its tokens against time."""

import textwrap

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from ..errors import AOTError
from .panels import draw_panel, pixels
from .scene import MAPS, Scene
from .style import CLIP_TINTS, EARLIER, INK, LATER, UNMIXED, headline, look, reasons
from .timeline import counts_chart, total_chart

DPI = 110
PANEL = 1.5  # inches of a panel's width
LEFT, RIGHT = 1.0, 0.55  # inches beside the panels
CLIP, TITLE, GAP, CHART = 0.2, 0.22, 0.06, 1.15
ROW_NAMES = {"kept": "kept", "why": "why", "merged": "where\nthe rest\nwent"}


def grid_image(scene: Scene, *, rows: tuple[str, ...] | None = None) -> Image.Image:
    """The frame grid. rows as in `aot.visualize.draw`; AOTError for one that the method cannot fill."""
    rows = rows_of(scene) if rows is None else tuple(rows)
    missing = [row for row in rows if row not in rows_of(scene)]
    if missing or not rows:
        raise AOTError(f"This video has no row {missing[:1] or rows}; choose of: {', '.join(rows_of(scene))}.")
    figure = _Layout(scene, rows).draw()
    figure.set_dpi(DPI)
    return Image.fromarray(pixels(figure))


def rows_of(scene: Scene) -> tuple[str, ...]:
    """The rows that the method's trace can fill."""
    merged = scene.target is not None and (scene.target >= 0).any()
    return ("kept", *(["why"] if scene.maps else []), *(["merged"] if merged else []))


class _Layout:
    """Places in inches from the top left corner, turned into axes."""

    def __init__(self, scene: Scene, rows: tuple[str, ...]):
        self.scene, self.rows = scene, rows
        frames = len(scene.frames)
        self.columns = min(frames, 8 if frames <= 32 else 12)
        self.lines = -(-frames // self.columns)
        height, width = scene.frames.shape[1:3]
        self.panel = PANEL * height / width
        self.width = LEFT + max(self.columns * (PANEL + GAP), 8.0) + RIGHT
        self.head = TITLE + (0 if scene.clips is None else CLIP)  # above the panels: clip, time and count
        self.line = self.head + len(rows) * (self.panel + GAP) + 0.14
        self.words = textwrap.wrap(reasons(scene), int(self.width * 11.5))
        self.legend = legend_items(scene, rows)
        self.top = 0.5 + 0.2 * len(self.words) + 0.24 * -(-len(self.legend) // 2) + 0.12
        self.height = self.top + self.lines * self.line + 0.15 + 2 * CHART + 0.75
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")

    def axes(self, x: float, y: float, width: float, height: float):
        """Axes at x, y inches from the top left corner."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def text(self, x: float, y: float, words: str, **style) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, words, **{"color": INK, "va": "center", **style})

    def draw(self) -> Figure:
        self.text(0.2, 0.28, headline(self.scene), fontsize=14, weight="bold")
        for number, words in enumerate(self.words):
            self.text(0.2, 0.58 + 0.2 * number, words, fontsize=10)
        self.figure.legend(
            handles=self.legend,
            loc="upper left",
            bbox_to_anchor=(0.12 / self.width, 1 - (0.5 + 0.2 * len(self.words)) / self.height),
            ncols=2,
            frameon=False,
            fontsize=9,
            handlelength=1.6,
            columnspacing=2.0,
        )
        for t in range(len(self.scene.frames)):
            self.frame(t)
        for line in range(self.lines):
            for number, row in enumerate(self.rows):
                middle = self.top + line * self.line + self.head + number * (self.panel + GAP) + self.panel / 2
                self.text(LEFT - 0.12, middle, ROW_NAMES[row], ha="right", fontsize=10, weight="bold")
        # tokens against time
        y, width = self.top + self.lines * self.line + 0.15, self.width - LEFT - RIGHT
        above = self.axes(LEFT, y, width, CHART)
        counts_chart(above, self.scene)
        above.tick_params(labelbottom=False)
        total_chart(self.axes(LEFT, y + CHART + 0.18, width, CHART), self.scene)
        return self.figure

    def frame(self, t: int) -> None:
        """The panels of one frame under its time and count, on the tint of its clip."""
        scene = self.scene
        line, column = divmod(t, self.columns)
        x, y = LEFT + column * (PANEL + GAP), self.top + line * self.line
        self.clip_band(t, x, y)
        self.text(x + 0.03, y + self.head - TITLE / 2, f"{scene.times[t]:.1f} s", fontsize=9, weight="bold")
        per_frame = scene.grid[0] * scene.grid[1]
        kept = f"{scene.counts[t].sum()} of {per_frame}"
        self.text(x + PANEL - 0.03, y + self.head - TITLE / 2, kept, fontsize=8.5, ha="right")
        for number, row in enumerate(self.rows):
            place = self.axes(x, y + self.head + number * (self.panel + GAP), PANEL, self.panel)
            draw_panel(place, scene, t, row)

    def clip_band(self, t: int, x: float, y: float) -> None:
        """A tint under the frames of a clip, and a bar with the clip's number where it begins."""
        clip = self.scene.clip_of(t)
        if clip is None:
            return
        start, end = self.scene.clips[clip]
        left = x - (GAP / 2 if t == start or t % self.columns == 0 else GAP)
        box = (left / self.width, 1 - (y + self.line - 0.05) / self.height)
        size = ((PANEL + GAP) / self.width, (self.line - 0.02) / self.height)
        paint = {"transform": self.figure.transFigure, "lw": 0, "zorder": -2}
        self.figure.add_artist(Rectangle(box, *size, color=CLIP_TINTS[clip % 2], **paint))
        if t in (start, t // self.columns * self.columns):
            self.text(x + 0.03, y + CLIP / 2 + 0.03, f"clip {clip + 1}", fontsize=8.5)
        if t == start and t > 0:
            edge = (box[0] - 0.01 / self.width, box[1])
            paint = {"transform": self.figure.transFigure, "lw": 0, "zorder": 3}
            self.figure.add_artist(Rectangle(edge, 0.03 / self.width, size[1], color=INK, **paint))


def legend_items(scene: Scene, rows: tuple[str, ...]) -> list:
    """What every mark means, for the rows that are shown."""
    items: list = []
    for kind in scene.kinds:
        style = look(scene, kind)
        items.append(_mark(style.mark, style.color, style.text))
    if scene.after < scene.before:
        items.append(Patch(facecolor="#D5D5D5", edgecolor="#BBBBBB", label="faded: not kept"))
    if "why" in rows:
        items.append(
            Patch(facecolor="#FDE737", edgecolor="#00204D", label=f"why: bright = high {MAPS[next(iter(scene.maps))]}")
        )
    if "merged" in rows:
        shade, what = (INK, "merged into") if scene.blended else (UNMIXED, "counted in, not mixed into,")
        items.append(_mark("$\\rightarrow$", shade, f"{what} the kept token at the arrow's head"))
        items.append(Patch(facecolor=EARLIER, alpha=0.6, label="◀ went to a kept token of an earlier frame"))
        items.append(Patch(facecolor=LATER, alpha=0.6, label="▶ went to a kept token of a later frame"))
        items.append(_mark("$12$", INK, "number on a kept token: how many it stands for"))
    if scene.clips is not None and len(scene.clips) > 1:
        words = "band, black bar: a clip" + "; nothing moves across its bounds" * ("merged" in rows)
        items.append(Patch(facecolor=CLIP_TINTS[0], edgecolor=INK, label=words))
    return items


def _mark(mark: str, color: str, text: str) -> Line2D:
    return Line2D([], [], marker=mark, color=color, ls="none", ms=8, label=text)
