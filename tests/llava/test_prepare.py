"""Splicing and padding of batches, and what is refused."""

import pytest
import torch

from llava.model.visual_tokens import left_align

IDS = torch.tensor([[5, 6, -200, 7, 0, 0], [5, -200, 6, 7, 8, 9]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def prepare(model, ids, images, modalities=("image",), *, mask=None, labels=None, positions=None, cache=None):
    return model.prepare_inputs_labels_for_multimodal(ids, positions, mask, cache, labels, images, modalities)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_a_batch(model, video, side):
    model.config.tokenizer_padding_side = side
    ids, positions, mask, cache, embeds, labels = prepare(
        model, IDS, [video[:2], video], "video", mask=MASK, labels=IDS, positions=torch.zeros_like(IDS)
    )
    rows = [3 + 2 * 37, 5 + 6 * 37]
    assert ids is None and cache is None and embeds.shape == (2, rows[1], 32) and mask.dtype == MASK.dtype
    assert mask.sum(dim=1).tolist() == rows
    kept, padding = mask[0].bool(), ~mask[0].bool()
    assert padding[:1].all() == (side == "left") and (embeds[0][padding] == 0).all()
    assert (labels[0][padding] == -100).all() and positions[0][kept].tolist() == list(range(rows[0]))
    expected = [5, 6, *[-100] * 74, 7]
    assert labels[0][kept].tolist() == expected
    alone = prepare(model, IDS[:1, :4], [video[:2]], "video")[4]
    torch.testing.assert_close(embeds[0][kept], alone[0], rtol=1e-4, atol=1e-5)


def test_what_was_none_stays_none(model, video):
    assert [x is None for x in prepare(model, IDS[1:], [video], "video")] == [True] * 4 + [False, True]


def test_rows_of_unequal_length_get_a_mask(model, video):
    mask = prepare(model, IDS, [video[:2], video], "video")[2]
    assert mask.dtype == torch.bool and mask.sum(dim=1).tolist() == [5 + 74, 5 + 222]


def test_unknown_padding_side(model, video):
    model.config.tokenizer_padding_side = "middle"
    with pytest.raises(ValueError, match="tokenizer_padding_side"):
        prepare(model, IDS[1:], [video], "video")


def test_text_rows_take_no_image_or_a_dummy_one(model, video):
    ids = torch.tensor([[5, 6, 7], [5, -200, 7]])
    without = prepare(model, ids, [video[:1]])[4]
    dummy = prepare(model, ids, [video[1:2], video[:1]])[4]
    torch.testing.assert_close(without, dummy)
    assert without.shape[1] == 2 + 145


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_marks_and_entries_must_agree(model, video, entries):
    ids = torch.tensor([[5, -200, 6, -200]])
    with pytest.raises(ValueError, match=f"2 <image> marks, but images has {entries} entries"):
        prepare(model, ids, [video[:1]] * entries)


@pytest.mark.parametrize("modalities", ["video", ["video"], ["image", "video"]])
def test_a_video_prompt_without_images_is_refused(model, modalities):
    ids = torch.tensor([[5, 6]])
    for call in (
        lambda: prepare(model, ids, None, modalities),
        lambda: model.generate(ids, images=None, modalities=modalities, max_new_tokens=1),
        lambda: model(ids, images=None, modalities=modalities),
        lambda: prepare(model, ids, [], modalities),
    ):
        with pytest.raises(ValueError, match="pass the pixels in images"):
            call()


def test_an_image_mark_without_images_is_refused(model):
    with pytest.raises(ValueError, match="images is None"):
        model.generate(torch.tensor([[5, -200]]), max_new_tokens=1)


def test_other_refusals(model, video):
    one = torch.tensor([[-200]])
    with pytest.raises(ValueError, match="Unknown modality 'audio'"):
        prepare(model, one, [video], ["audio"])
    with pytest.raises(ValueError, match="as a list"):
        prepare(model, one, video[:1], ["video"])
    with pytest.raises(ValueError, match="image_processor"):
        prepare(model, one, [video[:, :, :48]], ["video"])
    with pytest.raises(ValueError, match="image_processor"):
        prepare(model, one, [video.numpy()], ["video"])


def test_a_single_frame_may_leave_its_axis_out(model, video):
    one = torch.tensor([[-200]])
    assert torch.equal(prepare(model, one, [video[0]], "video")[4], prepare(model, one, [video[:1]], "video")[4])


def test_a_stacked_tensor_is_a_batch_of_flat_images(model, video):
    embeds = prepare(model, torch.tensor([[5, -200, -200]]), video[:2])[4]
    torch.testing.assert_close(embeds[0, 1:], model.encode_images(video[:2]).flatten(0, 1))


def test_long_rows_are_cut_with_a_warning(model, video, caplog):
    model.config.tokenizer_model_max_length = 50
    assert prepare(model, IDS[1:], [video], "video", labels=IDS[1:])[5].shape == (1, 50)
    assert "cut to tokenizer_model_max_length = 50" in caplog.text


def test_a_decoding_step_passes_through(model, video):
    ids, cache = torch.tensor([[5]]), object()
    assert prepare(model, ids, [video], "video", cache=cache)[:5] == (ids, None, None, cache, None)


def test_left_align_keeps_order():
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    values = torch.tensor([[1, 2, 0, 0], [0, 3, 4, 0], [5, 6, 7, 8]])
    new_mask, moved, nothing = left_align(mask, values, None)
    assert new_mask.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]] and nothing is None
    assert moved[new_mask.bool()].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    embeds = torch.randn(3, 4, 2)
    assert torch.equal(left_align(mask, embeds)[1][0, 2:], embeds[0, :2])
