"""The small tokenizer of aot-tiny: byte-level BPE over the words of the procedural world, Qwen chat markers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aot_tiny.film import questions as qa
from aot_tiny.film.clips import COLORS, SHAPES, sample_clip
from llava.eval.jsonl import write_whole

VOCABULARY = 1024
CLIPS = 400  # that the words are taken from
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus() -> Iterator[str]:
    """Text of every kind that the model reads or writes."""
    rng = np.random.default_rng(0)
    yield from ["<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"] * 50
    yield from ["<|im_start|>assistant\n", "user\n", "red green blue yellow\n", *qa.CAPTION_PROMPTS] * 50
    for word in (*COLORS, *SHAPES, *qa.MOTIONS, *qa.CORNERS, *qa.CHANGES, *qa.QUARTERS, *qa.NUMBERS, *qa.YES_NO):
        yield from [word, f" {word}"] * 50
    for seed in range(CLIPS):
        clip = sample_clip(seed)
        yield f"{qa.caption(clip)} The answer is red."
        for i, question in enumerate(qa.make_questions(clip)):
            style = tuple(qa.CHOICE_PROMPTS)[i % len(qa.CHOICE_PROMPTS)]
            yield question.open_prompt()
            letters = question.letters()
            yield question.choice_prompt(question.options(rng, letters[i % len(letters)]), style)


def save_tokenizer(folder: str | Path) -> None:
    """Train the tokenizer and write its files (tokenizer.json, tokenizer_config.json) to `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)  # numbers are read and said digit by digit
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 32768,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_whole(folder / "tokenizer_config.json", f"{json.dumps(config, indent=1)}\n".encode())
