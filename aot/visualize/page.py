"""One HTML file with everything in it: no server, no network, no other file."""

import base64
import html
import io
import json
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from .grid import rows_of
from .panels import TITLES, draw_panel, pixels
from .scene import MAPS, Scene
from .style import INK, caption, headline, look, reasons

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; }
img, video { max-width: 100%; height: auto; }
figure { margin: 1.5rem 0; border-top: 1px solid #ccc; padding-top: .5rem; }
figcaption { font-weight: 600; }
table { border-collapse: collapse; }
td, th { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
pre { background: #f4f4f4; padding: 1rem; overflow: auto; }
"""


def write_page(scene: Scene, path: Path, *, picture: Image.Image, mp4: Path, name: str) -> None:
    """Writes the page. picture: the frame grid. mp4: the video, which is copied into the page."""
    frames = range(len(scene.frames))
    title = html.escape(f"What was kept of {name}")
    strips = "\n".join(
        f'<figure id="frame-{t + 1}"><figcaption>{html.escape(caption(scene, t))}</figcaption>'
        f'<img alt="{html.escape(caption(scene, t))}" src="{_png(_strip(scene, t))}"></figure>'
        for t in frames
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>
<h1>{title}</h1>
<p><strong>{html.escape(headline(scene))}.</strong> {html.escape(reasons(scene))}</p>
<h2>All frames</h2>
<img alt="Every frame with what was kept, why, and where the rest went" src="{_png(picture)}">
<h2>One frame after the other</h2>
<video controls loop muted src="{_uri("video/mp4", mp4.read_bytes())}"></video>
<h2>Tokens of each frame</h2>
{_table(scene)}
<h2>Frame by frame</h2>
<p>In the maps bright is high, on one scale for the whole video; boxes are kept tokens.</p>
{strips}
<h2>Settings</h2>
<pre>{html.escape(json.dumps(scene.settings, indent=1))}</pre>
</body></html>
""",
        encoding="utf-8",
        errors="backslashreplace",  # a file's name may be no UTF-8
    )


def _table(scene: Scene) -> str:
    """Budget of each frame by kind."""
    several = len(scene.kinds) > 1
    names = [look(scene, kind).text.partition("(")[2].rstrip(")") for kind in scene.kinds if several]
    rows = [["frame", "time, s", "clip", *names, "kept"]]
    for t in range(len(scene.frames)):
        clip = scene.clip_of(t)
        kinds = [scene.counts[t, kind] for kind in scene.kinds if several]
        place = [t + 1, f"{scene.times[t]:.2f}", "" if clip is None else clip + 1]
        rows.append([*place, *kinds, scene.counts[t].sum()])
    head, *body = (
        "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in row)
        for row, tag in zip(rows, ["th"] + ["td"] * (len(rows) - 1), strict=True)
    )
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in body) + "</table>"


def _strip(scene: Scene, t: int) -> Image.Image:
    """A frame with what was kept, where the rest went, and every map of the method, side by side."""
    panels = ["frame", "kept", *(["merged"] if "merged" in rows_of(scene) else []), *scene.maps]
    height, width = scene.frames.shape[1:3]
    inches = 1.9
    size = (inches * len(panels), inches * height / width + 0.3)
    figure = Figure(figsize=size, dpi=100, facecolor="white")
    for number, name in enumerate(panels):
        ax = figure.add_axes((number / len(panels), 0.02, 0.97 / len(panels), 1 - 0.3 / size[1] - 0.02))
        draw_panel(ax, scene, t, name)
        ax.set_title((TITLES | MAPS)[name].partition(" (")[0], fontsize=8, color=INK)
    return Image.fromarray(pixels(figure))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
