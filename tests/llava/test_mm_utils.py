import numpy as np
import pytest
import torch
from PIL import Image

from aot import AOTError
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    expand2square,
    get_anyres_image_grid_shape,
    get_model_name_from_path,
    parse_grid_pinpoints,
    process_images,
    select_best_resolution,
    tokenizer_image_token,
)
from llava.model.multimodal_encoder.siglip_encoder import SigLipImageProcessor


class Settings:
    image_aspect_ratio = "pad"
    image_grid_pinpoints = "(1x1),...,(2x2)"


class BosTokenizer:
    """One id per letter behind a beginning-of-sequence id."""

    bos_token_id = 1

    def __call__(self, text):
        return type("Encoded", (), {"input_ids": [1, *map(ord, text)]})()


def test_image_marks_become_one_id_each(tokenizer):
    ids = tokenizer_image_token("ab<image>c<image>", tokenizer)
    assert ids == [*tokenizer("ab").input_ids, -200, *tokenizer("c").input_ids, -200]
    assert torch.equal(tokenizer_image_token("ab<image>c<image>", tokenizer, return_tensors="pt"), torch.tensor(ids))


def test_chat_marks_are_single_ids(tokenizer):
    ids = tokenizer_image_token("<|im_start|>user\n<image>\n<|im_end|>", tokenizer)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_beginning_of_sequence_is_kept_once():
    assert tokenizer_image_token("a<image>b<image>", BosTokenizer()) == [1, ord("a"), -200, ord("b"), -200]


def test_other_return_tensors_are_refused(tokenizer):
    with pytest.raises(ValueError, match="'pt'"):
        tokenizer_image_token("a", tokenizer, return_tensors="np")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("lmms-lab/llava-onevision-qwen2-7b-ov", "llava-onevision-qwen2-7b-ov"),
        ("/models/tiny/", "tiny"),
        ("/models/tiny/checkpoint-200", "tiny_checkpoint-200"),
    ],
)
def test_model_name(path, name):
    assert get_model_name_from_path(path) == name


def test_best_resolution_keeps_pixels_then_wastes_least_then_comes_first():
    options = [(384, 384), (384, 768), (768, 384), (768, 768)]
    assert select_best_resolution((1000, 400), options) == (768, 384)
    assert select_best_resolution((100, 100), options) == (384, 384)
    assert select_best_resolution((900, 900), options) == (768, 768)
    assert select_best_resolution((100, 100), [(384, 768), (768, 384)]) == (384, 768)


def test_pinpoints_in_range_form():
    assert parse_grid_pinpoints("(1x1),...,(2x3)", 384) == [
        (384, 384), (384, 768), (384, 1152), (768, 384), (768, 768), (768, 1152),
    ]  # fmt: skip
    assert parse_grid_pinpoints("[(384, 768)]", 384) == [(384, 768)]
    assert get_anyres_image_grid_shape((1000, 400), "(1x1),...,(2x2)", 384) == (2, 1)


@pytest.mark.parametrize(
    "text",
    ["(1x1),...,(99999x99999)", "(6x6),...,(1x1)", "[(384,", "[1, 2]", "", "[(0, 384)]", [[384]], None, "[" * 9999],
)
def test_pinpoints_that_are_none_are_one_sentence(text):
    with pytest.raises(AOTError, match="image_grid_pinpoints is .* pairs of a width") as error:
        parse_grid_pinpoints(text, 384)
    assert len(str(error.value)) < 300


def test_expand2square_centres():
    square = expand2square(Image.new("RGB", (4, 2), (9, 9, 9)), (127, 127, 127))
    rows = np.asarray(square)[:, 0, 0].tolist()
    assert square.size == (4, 4) and rows == [127, 9, 9, 127]


def test_process_images_by_aspect_ratio():
    processor = SigLipImageProcessor(size=(32, 32))
    images = [Image.new("RGB", (64, 32), (255, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 255))]
    settings = Settings()
    padded = process_images(images, processor, settings)
    assert padded.shape == (2, 3, 32, 32)
    assert padded[0, 0, 0, 0] == pytest.approx(127 / 255 * 2 - 1, abs=1e-6) and padded[0, 0, 16, 16] == 1
    settings.image_aspect_ratio = "square"
    assert torch.all(process_images(images, processor, settings)[0, 0] == 1)
    settings.image_aspect_ratio = "anyres"
    assert [len(pixels) for pixels in process_images(images, processor, settings)] == [3, 2]
    settings.image_aspect_ratio = "crop_split"
    with pytest.raises(ValueError, match="crop_split"):
        process_images(images, processor, settings)


def test_alpha_and_grey_become_rgb():
    processor = SigLipImageProcessor(size=(8, 8))
    clear_red = processor.preprocess(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))["pixel_values"]
    assert torch.all(clear_red[0, 0] == 1) and torch.all(clear_red[0, 1] == -1)
    assert processor.preprocess(Image.new("L", (8, 8), 255))["pixel_values"].min() == 1


def test_frames_as_one_array_equal_single_images():
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    processor = SigLipImageProcessor(size=(16, 16))
    together = processor.preprocess(frames, return_tensors="pt")["pixel_values"]
    single = [processor.preprocess(Image.fromarray(frame))["pixel_values"] for frame in frames]
    assert together.shape == (3, 3, 16, 16) and torch.equal(together, torch.cat(single))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), "image.png"])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="image"):
        SigLipImageProcessor(size=(8, 8)).preprocess([image])


def test_keywords_stop_rows_by_themselves(tokenizer):
    stop = KeywordsStoppingCriteria(["<|im_end|>", "###"], tokenizer, torch.zeros(1, 500))
    plain, marks = tokenizer("abc##").input_ids, tokenizer("ab###").input_ids
    end = [*tokenizer("abcd").input_ids, tokenizer.eos_token_id]
    assert stop(torch.tensor([plain, marks, end]), None).tolist() == [False, True, True]
