"""Pictures of what was kept, why, and where the rest went: a PNG, an MP4 and an HTML page.

Needs matplotlib, Pillow and PyAV (extra "visualize"); they are imported when a picture is drawn, so that
`import aot` needs torch alone.
"""

from pathlib import Path
from typing import Any

from ..errors import AOTError
from ..types import CompressedVideo

__all__ = ["draw", "require", "visualize"]


def draw(video: CompressedVideo, frames: Any, times: Any, *, rows: tuple[str, ...] | None = None) -> Any:
    """The frame grid as a Pillow image.

    video: from `compress(..., trace=True)`; without a trace it shows what was kept and nothing else. frames:
    (T, height, width, 3) uint8 array, the frames that the tower saw. times: (T,) seconds. rows: which of
    "kept", "why" and "merged" to show; None for all that the method can tell.
    Raises AOTError for frames that do not belong to the video or a missing drawing library.
    """
    scene, grid, _, _ = require()
    return grid.grid_image(scene.make_scene(video, frames, times), rows=rows)


def visualize(
    video: CompressedVideo, frames: Any, times: Any, output: str | Path, *, name: str = "the video"
) -> dict[str, Path]:
    """Writes kept.png, kept.mp4 and index.html into the folder `output`; returns their paths by suffix.

    Arguments and errors as in `draw`. name: what the page calls the video.
    """
    scene, grid, mp4, page = require()
    shown = scene.make_scene(video, frames, times)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"png": folder / "kept.png", "mp4": folder / "kept.mp4", "html": folder / "index.html"}
    picture = grid.grid_image(shown)
    picture.save(paths["png"], optimize=True)
    mp4.write_mp4(shown, paths["mp4"])
    page.write_page(shown, paths["html"], picture=picture, mp4=paths["mp4"], name=name)
    return paths


def require() -> tuple[Any, Any, Any, Any]:
    """Imports the drawing libraries and returns the modules that need them; AOTError, with what to install, without."""
    try:
        from . import grid, mp4, page, scene
    except ImportError as error:
        raise AOTError(f"Pictures need {error.name}; run pip install 'aot-video[visualize]'.") from error
    return scene, grid, mp4, page
