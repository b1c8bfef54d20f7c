import numpy as np
import pytest

from aot_tiny.drawing import write_video

from .checkpoints import FAMILIES, make


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A video file of 6 seconds, 48x48 pixels, 8 frames a second; every frame is another."""
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 255, (48, 6, 6, 3), dtype=np.uint8), 8, axis=1), 8, axis=2)
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, frames, fps=8, crf=18)
    return str(path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A folder for each family, made when it is asked for."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def of(family):
        if family not in made:
            made[family] = make(folder / family, family)
        return made[family]

    return of


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param
