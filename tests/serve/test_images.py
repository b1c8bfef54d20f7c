"""Images in the chat: alone, several, and beside a video."""

import json
import struct
import zlib

import pytest
from PIL import Image

from aot_cli.main import main


@pytest.fixture
def images(tmp_path):
    for name, colour, size in (("red", (200, 20, 20), (120, 80)), ("blue", (20, 20, 200), (50, 90))):
        Image.new("RGB", size, colour).save(tmp_path / f"{name}.png")
    return [str(tmp_path / "red.png"), str(tmp_path / "blue.png")]


def asked(capsys, *words):
    assert main(["chat", *words, "--question", "What is it?", "--json", "--max-new-tokens", "2"]) == 0
    return json.loads(capsys.readouterr().out)


def test_several_images_alone(images, capsys):
    answer = asked(capsys, "--image-file", *images)
    assert answer["video"] is None and answer["tokens"]["after"]["visual"] == 0
    assert [image["size"] for image in answer["images"]] == [[120, 80], [50, 90]]
    assert all(image["tokens"] > 144 for image in answer["images"])  # 12x12 of the whole, and tiles


def test_images_and_a_video_in_one_prompt(images, clip, capsys, monkeypatch):
    from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM

    lengths = []
    prepare = LlavaQwenForCausalLM.prepare_inputs_labels_for_multimodal

    def remembered(self, *arguments):
        result = prepare(self, *arguments)
        lengths.append(result[4].shape[1])
        return result

    monkeypatch.setattr(LlavaQwenForCausalLM, "prepare_inputs_labels_for_multimodal", remembered)
    video = asked(capsys, clip)
    alone = lengths[-1]
    both = asked(capsys, clip, "--image-file", *images)
    assert both["video"] == video["video"] and both["tokens"]["after"] == video["tokens"]["after"]
    more = sum(image["tokens"] for image in both["images"])
    assert more < lengths[-1] - alone <= more + 4  # two line breaks more


def test_image_line_of_a_running_chat(images, tmp_path, capsys, monkeypatch):
    lines = iter([f"/image {images[0]}", "What is it?", "/image", "What is it?"])
    monkeypatch.setattr("llava.chat.terminal.Terminal.read", lambda *_: next(lines, None))
    assert main(["chat", "--max-new-tokens", "2"]) == 1  # without an image there is nothing left to ask about
    told = capsys.readouterr()
    assert "120x80" in told.err and "Forgot 1 images" in told.err and "There is no video to ask about" in told.err
    assert "images" in told.out


@pytest.mark.parametrize("content", [None, b"no image"])
def test_what_is_no_image_is_one_sentence(content, tmp_path, capsys):
    path = tmp_path / "picture.png"
    if content:
        path.write_bytes(content)
    assert main(["chat", "--image-file", str(path), "--question", "What?"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(path) in error and ("cannot be read" in error if content else "no image" in error)


@pytest.mark.parametrize("side", [9_000, 10_000, 60_000])
def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(side, tmp_path, capsys):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = tmp_path / "huge.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))
    assert main(["chat", "--image-file", str(path), "--question", "What?"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(path) in error and "scale" in error
    assert Image.MAX_IMAGE_PIXELS is not None  # the chat leaves Pillow's own bound as it is
