"""The picture, the film and the page: drawn for every method, complete, and readable without colours."""

import dataclasses
import re
import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from aot import AOTConfig, AOTError, compress, method_names
from aot.methods.in_llm import IN_LLM
from aot.registry import get_method
from aot.visualize import draw, visualize
from aot.visualize.panels import kept_picture
from aot.visualize.scene import make_scene
from aot.visualize.style import EARLIER, LATER, LOOKS, reasons

FRAMES, TIMES = np.random.default_rng(0).integers(0, 255, (3, 36, 48, 3), np.uint8), [0.0, 0.5, 1.25]
INPUTS = {name: torch.rand(3, 64, generator=torch.Generator().manual_seed(1)) for name in ("shallow", "deep")}
FEATURES = torch.randn(3, 64, 16, generator=torch.Generator().manual_seed(2))


def compressed(config: AOTConfig):
    extras = {}
    for name in get_method(config.method).requires:
        if name not in INPUTS:
            extras[name] = FEATURES if name == "keys" else INPUTS["deep"]
    return compress(FEATURES, INPUTS["shallow"], INPUTS["deep"], config, extras=extras, trace=True)


@pytest.mark.parametrize("method", sorted({*method_names()} - {*IN_LLM}))
def test_every_method_draws(method):
    picture = np.asarray(draw(compressed(AOTConfig(retention=0.25, method=method)), FRAMES, TIMES))
    assert picture.shape[0] > 300 and picture.shape[1] > 800
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100  # not an empty sheet


@pytest.mark.parametrize("config", [AOTConfig(retention=1.0), AOTConfig.preset("released", num_anchors=24)])
def test_other_settings_draw(config):
    assert draw(compressed(config), FRAMES, TIMES).size[0] > 800


def test_without_a_trace_the_kept_tokens_are_drawn():
    video = compress(FEATURES, INPUTS["shallow"], INPUTS["deep"], AOTConfig())
    assert draw(video, FRAMES, TIMES).size[0] > 800
    with pytest.raises(AOTError, match="merged"):
        draw(video, FRAMES, TIMES, rows=("merged",))


def test_kept_cells_keep_their_pixels_and_others_lose_their_colour():
    scene = make_scene(compressed(AOTConfig(retention=0.25)), FRAMES, TIMES)
    for t in range(3):
        picture = kept_picture(scene, t)
        for row in range(4):
            for column in range(4):
                cell = np.s_[row * 9 : row * 9 + 9, column * 12 : column * 12 + 12]
                if scene.kind[t, row, column] >= 0:
                    assert np.array_equal(picture[cell], FRAMES[t][cell])
                else:
                    assert np.ptp(picture[cell], axis=-1).max() == 0 and picture[cell].min() >= 170


def test_all_files_are_written_and_the_page_needs_no_other(tmp_path):
    paths = visualize(compressed(AOTConfig(retention=0.25)), FRAMES, TIMES, tmp_path / "out", name="<b>a&b.mp4")
    assert sorted(paths) == ["html", "mp4", "png"] and all(path.stat().st_size > 0 for path in paths.values())
    with av.open(str(paths["mp4"])) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(pictures) == 3 * 8 and pictures[0].shape == (720, 1280, 3)
    # the picture stays for a second, then changes
    assert np.abs(pictures[0].astype(int) - pictures[7]).mean() < np.abs(pictures[7].astype(int) - pictures[8]).mean()
    page = paths["html"].read_text(encoding="utf-8")
    assert "&lt;b&gt;a&amp;b.mp4" in page and "<b>a" not in page
    assert set(re.findall(r'(?:src|href)="([a-z]+)[:/]', page)) == {"data"} and "http" not in page.split("base64")[0]
    for time in TIMES:
        assert f"{time:.2f} s, clip" in page
    assert '"retention": 0.25'.replace('"', "&quot;") in page


def test_the_reasons_say_what_the_method_does():
    rest = {"aot": "are merged into kept ones.", "random": "are dropped.", "visionzip": "no trace of which into which"}
    for method, words in rest.items():
        assert words in reasons(make_scene(compressed(AOTConfig(retention=0.5, method=method)), FRAMES, TIMES))
    whole = compressed(AOTConfig(retention=1.0))
    assert "All of them are kept" in reasons(make_scene(whole, FRAMES, TIMES))
    inside = dataclasses.replace(whole, config=AOTConfig(method="fastv"))
    assert "drops some inside" in reasons(make_scene(inside, FRAMES, TIMES))


def test_maps_with_infinite_entries_stay_on_a_finite_scale():
    video = compressed(AOTConfig(method="random"))
    video.trace["change"] = torch.tensor([-torch.inf, 1.0, 3.0, torch.inf]).repeat(12).view(3, 16)
    scene = make_scene(video, FRAMES, TIMES)
    assert scene.maps["change"][0, 0].tolist() == [1, 1, 3, 3]


def test_a_method_of_ones_own_shows_its_score():
    video = compressed(AOTConfig(method="random"))
    video.trace["score"] = torch.rand(3, 16)
    assert "own score" in reasons(make_scene(video, FRAMES, TIMES))
    assert draw(video, FRAMES, TIMES, rows=("why",)).size[0] > 800


def test_drawing_libraries_are_imported_by_drawing_alone_and_a_missing_one_is_one_sentence():
    code = """
import sys, aot, aot.visualize
print([m for m in ("matplotlib", "PIL", "av") if m in sys.modules])
sys.modules["matplotlib"] = None
try:
    aot.visualize.require()
except aot.AOTError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded, error = done.stdout.splitlines()
    assert loaded == "[]" and re.match(r"Pictures need matplotlib\S*; run pip install 'aot-video\[visualize\]'", error)


# Machado, Oliveira, Fernandes (2009): what a person without one kind of cone sees, on linear RGB
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(color: str, blindness: str) -> np.ndarray:
    """CIE Lab of an sRGB colour as that person sees it."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colours_stay_apart_for_colour_blind_people(blindness):
    for colors in ([look.color for look in LOOKS.values()], [EARLIER, LATER]):
        for i, one in enumerate(colors):
            for other in colors[i + 1 :]:
                assert np.linalg.norm(lab(one, blindness) - lab(other, blindness)) > 20  # 2.3 is just noticeable
    assert len({look.mark for look in LOOKS.values()}) == len(LOOKS)  # and marks differ without any colour
