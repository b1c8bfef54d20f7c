"""Label masks, mixtures and marks; and upstream's loss through the collator and the Trainer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from llava.model.language_model.llava_qwen import LlavaQwenForCausalLM
from llava.train.arguments import TrainArguments
from llava.train.conversations import DataError, parse_sample, read_mixture, tokenize
from llava.train.data import Collator
from llava.train.trainer import LlavaTrainer
from tests.llava.train.conftest import turns

GOLDEN = Path(__file__).parents[2] / "data" / "llava"


def test_labels_are_the_answers_and_the_marks_of_turns(tokenizer):
    """As LLaVA-NeXT's trainer masks: the model's turns whole, elsewhere the marks and line breaks alone."""
    said = [(0, "<image>\nWhat?"), (1, "A cat."), (0, "Sure?"), (1, "Yes.")]
    ids, labels = tokenize(said, tokenizer, template="qwen_1_5")
    conversation = conv_templates["qwen_1_5"].copy()
    for who, text in said:
        conversation.append_message(conversation.roles[who], text)
    assert ids.tolist() == tokenizer_image_token(conversation.get_prompt(), tokenizer)
    learnt = "".join(tokenizer.decode([i]) if i >= 0 else "_" for i in labels.tolist())
    start, end = "<|im_start|>", "<|im_end|>"
    system = "_" * len("system") + "\n" + "_" * len("You are a helpful assistant.") + f"{end}\n"
    first = f"{start}____\n_\n_____{end}\n"  # user, the image, What?
    second = f"{start}____\n_____{end}\n"
    answers = [f"{start}assistant\n{text}{end}\n" for text in ("A cat.", "Yes.")]
    assert learnt == "_" + system + first + answers[0] + second + answers[1]


def test_what_the_model_says_may_be_learnt_alone(tokenizer):
    said = [(0, "<image>\nWhat?\nNow."), (1, "A cat."), (0, "Sure?"), (1, "Yes.\nIt is.")]
    whole, labels = (
        tokenize(said, tokenizer, template="qwen_1_5", assistant_only_loss=alone)[column]
        for column, alone in ((0, False), (1, True))
    )
    learnt = tokenizer.decode(labels[labels >= 0].tolist())
    assert learnt == "A cat.<|im_end|>Yes.\nIt is.<|im_end|>"
    assert torch.equal(labels[labels >= 0], whole[labels >= 0])  # each where it stands
    caption = [(0, "<image>\nDescribe it."), (1, "A cat.")]
    same = (tokenize(caption, tokenizer, template="plain", assistant_only_loss=alone)[1] for alone in (False, True))
    assert torch.equal(*same)


def test_plain_learns_the_caption_alone(tokenizer):
    ids, labels = tokenize([(0, "<image>\nDescribe it."), (1, "A cat.")], tokenizer, template="plain")
    caption = tokenizer("A cat.\n").input_ids
    assert ids.tolist() == [IMAGE_TOKEN_INDEX, *caption] and labels.tolist() == [-100, *caption]


def test_marks_meet_their_images_and_videos():
    sample = parse_sample(
        {"video": "v", "image": ["a", "b"], "conversations": turns("<video> <image> <image>", "x")}, 0
    )
    assert sample.media == [("video", "v"), ("image", "a"), ("image", "b")]
    assert sample.turns[0][1] == "<image> <image> <image>"
    sample = parse_sample({"video": "v", "conversations": turns("Look: <image> what?", "x")}, 0)
    assert sample.turns[0] == (0, "<image>\nLook:  what?")
    sample = parse_sample({"image": "a", "conversations": turns("What?", "x")}, 0)
    assert sample.turns[0] == (0, "<image>\nWhat?")
    spoken = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    ]
    assert parse_sample({"conversations": spoken}, 0).system == "Be brief."


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"id": "z"}, "Sample z holds no conversation"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "Sample 7 holds no answer"),
        ({"image": "a", "conversations": turns("<image> <image>", "x")}, "2 marks for 1 images"),
        ({"conversations": turns("<image>", "x")}, "1 marks for 0 images"),
        ({"conversations": turns("?", None)}, "Sample 7 has a turn whose value is no text"),
        ({"conversations": [{"from": "human", "text": "?"}, *turns("?", "x")]}, "whose value is no text"),
        ({"conversations": turns([{"type": "text", "text": "?"}], "x")}, "whose value is no text"),
        ({"video": 3, "conversations": turns("?", "x")}, "Sample 7 has an image or a video that is no path"),
        ({"image": [None], "conversations": turns("?", "x")}, "that is no path"),
    ],
)
def test_a_bad_sample_is_one_sentence(raw, told):
    with pytest.raises(DataError, match=told):
        parse_sample(raw, 7)


def test_mixtures(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps([{"id": f"{name}{i}"} for i in range(10)]))
    (tmp_path / "c.jsonl").write_text('{"id": "c0"}\n{"id": "c1"}\n')
    parts = [("a.json", "first:25%"), ("b.json", "end:2"), ("c.jsonl", "all"), ("a.json", "random:30%")]
    lines = [f"  - json_path: {tmp_path / file}\n    sampling_strategy: '{how}'" for file, how in parts]
    (tmp_path / "mix.yaml").write_text("datasets:\n" + "\n".join(lines))
    ids = [sample["id"] for sample in read_mixture(str(tmp_path / "mix.yaml"), seed=3)]
    assert ids[:7] == ["a0", "a1", "a2", "b8", "b9", "c0", "c1"] and len(set(ids[7:])) == 3
    assert ids == [sample["id"] for sample in read_mixture(str(tmp_path / "mix.yaml"), seed=3)]
    assert len(read_mixture(str(tmp_path / "{a,b}.json"))) == 20
    bad = (
        b"datasets: 3",
        b"datasets:\n  - json_path: nowhere.json",
        b"datasets:\n  - json_path: 3",
        b"\xff",
        b"[" * 5000,
    )
    for content in bad:
        for name in ("bad.yaml", "bad.json", "bad.jsonl"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=name if content != bad[1] else None):
                read_mixture(str(tmp_path / name))


def test_a_line_separator_in_a_text_ends_no_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "a\u2028b"}\n\n{"id": "c"}\n', encoding="utf-8")
    assert [sample["id"] for sample in read_mixture(str(file))] == ["a\u2028b", "c"]


def test_upstreams_loss_on_its_golden_batch(tmp_path):
    """The number that LLaVA-NeXT itself gave on this checkpoint, prompt and video."""
    model = LlavaQwenForCausalLM.from_pretrained(GOLDEN / "tied")
    frames = np.load(GOLDEN / "frames.npz")["frames"]
    prompt = torch.tensor([5, 6, 7, IMAGE_TOKEN_INDEX, 9, 10, 11, 12])
    item = {
        "input_ids": prompt,
        "labels": prompt.masked_fill(prompt < 0, -100),
        "images": [model.get_vision_tower().image_processor.resize(frames)],
        "modalities": ["video"],
        "image_sizes": [(1, 1)],
        "retentions": [None],
        "skipped": [],
    }
    args = TrainArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = LlavaTrainer(model=model, args=args, train_dataset=[item], data_collator=Collator(0), max_unreadable=0)
    loss = trainer.compute_loss(model, Collator(0)([item]))
    expected = load_file(GOLDEN / "golden.safetensors")["tied.loss"]
    torch.testing.assert_close(loss.detach().flatten(), expected.flatten(), rtol=0, atol=2e-5)
