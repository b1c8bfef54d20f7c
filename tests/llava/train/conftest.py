"""A tiny checkpoint and conversations about images and clips that are drawn when the tests run."""

import json

import pytest
from PIL import Image

from aot_tiny.shapes.clips import write_clip
from tests.llava.conftest import *  # noqa: F403


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """Two clips and two images."""
    folder = tmp_path_factory.mktemp("media")
    for seed in range(2):
        write_clip(folder / f"{seed}.mp4", seed, size=96)
        Image.new("RGB", (120, 80), (200 * seed, 90, 30)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def data(media, tmp_path):
    """JSON of eight conversations: videos, images, several, text alone."""
    samples = [
        {"id": "a", "video": "0.mp4", "conversations": turns("<image>\nWhat is it?", "A circle.")},
        {"id": "b", "image": "0.png", "conversations": turns("<image>\nWhich colour?", "Green, mostly.")},
        {"id": "c", "conversations": turns("Say yes.", "Yes.") + turns("And no?", "No.")},
        {"id": "d", "video": "1.mp4", "conversations": turns("What moves?\n<video>", "A star.")},
        {"id": "e", "image": ["0.png", "1.png"], "conversations": turns("<image>\n<image>\nSame?", "No.")},
        {"id": "f", "video": "0.mp4", "image": "1.png", "conversations": turns("In both?", "Nothing.")},
        {"id": "g", "conversations": turns("Two?", "2")},
        {"id": "h", "image": "1.png", "conversations": turns("<image>", "Red.")},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(samples))
    return path
