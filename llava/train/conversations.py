"""From files of conversations to token ids and labels."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.conversation import SeparatorStyle, conv_templates
from llava.eval.jsonl import read_jsonl
from llava.mm_utils import tokenizer_image_token

VIDEO_MARK = "<video>"
SPEAKERS = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}


class DataError(ValueError):
    """Training data that cannot be used, with one sentence saying what to do."""


@dataclass(frozen=True)
class Sample:
    """turns: (0 for the person or 1 for the model, text). media: ("image" or "video", path), one for each mark."""

    name: str
    system: str | None
    turns: list[tuple[int, str]]
    media: list[tuple[str, str]]


def read_mixture(path: str, *, seed: int = 0) -> list[dict]:
    """The raw samples of a JSON or JSONL file, of several as in a{b,c}.json, or of a YAML mixture.

    A mixture lists `datasets`, each with a `json_path` and a `sampling_strategy`: "all", or "first", "end" or "random"
    with a number or a share, as in "random:10%". Raises DataError for a file that cannot be used.
    """
    braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", path)
    if braces:
        start, names, end = braces.groups()
        return [sample for name in names.split(",") for sample in _read_file(Path(f"{start}{name}{end}"))]
    if not path.endswith((".yaml", ".yml")):
        return _read_file(Path(path))
    try:
        mixture = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        parts = [(Path(part["json_path"]), str(part.get("sampling_strategy", "all"))) for part in mixture["datasets"]]
    except (OSError, ValueError, yaml.YAMLError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no mixture; write `datasets:` with a json_path each.") from error
    draw = random.Random(seed)
    return [sample for file, strategy in parts for sample in _drawn(_read_file(file), strategy, draw)]


def _read_file(file: Path) -> list[dict]:
    try:
        samples = read_jsonl(file) if file.suffix == ".jsonl" else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as conversations ({error}); check the path and the format.") from error
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise DataError(f"{file} holds no list of conversations; see docs/training.md for the format.")
    return samples


def _drawn(samples: list[dict], strategy: str, draw: random.Random) -> list[dict]:
    kind, _, amount = strategy.partition(":")
    if kind == "all":
        return samples
    try:
        count = -(-int(amount[:-1]) * len(samples) // 100) if amount.endswith("%") else int(amount)
    except ValueError as error:
        raise DataError(f"sampling_strategy {strategy!r} has no number; use for example random:10%.") from error
    if kind == "random":
        return draw.sample(samples, min(count, len(samples)))
    if kind not in ("first", "end"):
        raise DataError(f"There is no sampling_strategy {kind!r}; use all, first, end or random.")
    return samples[:count] if kind == "first" else samples[max(0, len(samples) - count) :]


def parse_sample(raw: Mapping, number: int) -> Sample:
    """A sample of LLaVA's JSON; DataError when turns and marks do not fit its images and videos.

    `image` and `video` are a path or several. A `<video>` mark is a video; `<image>` marks are the images in order,
    then the videos. Without any mark they stand in front of the first question.
    """
    name = str(raw.get("id", number))
    try:
        turns = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in
                 raw["conversations"]]  # fmt: skip
        system = turns.pop(0)[1] if turns[0][0] == "system" else None
        turns = [(SPEAKERS[speaker], text) for speaker, text in turns]
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"Sample {name} holds no conversation of human and gpt turns.") from error
    if not all(isinstance(text, str) for _, text in turns):  # learnt as "None", were it not refused
        raise DataError(f"Sample {name} has a turn whose value is no text; write it in quotes.")
    if turns and turns[0][0] == 1:
        turns = turns[1:]
    if not any(speaker == 1 for speaker, _ in turns):
        raise DataError(f"Sample {name} holds no answer to learn from.")
    images, videos = _paths(raw.get("image")), _paths(raw.get("video"))
    if not all(isinstance(path, str) for path in images + videos):
        raise DataError(f"Sample {name} has an image or a video that is no path; write a path or a list of them.")
    marks = [mark for _, text in turns for mark in re.findall(f"{DEFAULT_IMAGE_TOKEN}|{VIDEO_MARK}", text)]
    if not marks and (images or videos):
        turns[0] = (turns[0][0], f"{DEFAULT_IMAGE_TOKEN}\n" * len(images + videos) + turns[0][1])
        marks = [DEFAULT_IMAGE_TOKEN] * len(images + videos)
    if len(marks) != len(images + videos) or marks.count(VIDEO_MARK) > len(videos):
        raise DataError(f"Sample {name} has {len(marks)} marks for {len(images)} images and {len(videos)} videos.")
    whole = [("image", path) for path in images] + [("video", path) for path in videos]
    if VIDEO_MARK in marks:
        rest = [entry for entry in whole if entry[0] == "image"], [entry for entry in whole if entry[0] == "video"]
        whole = [rest[1 if mark == VIDEO_MARK or not rest[0] else 0].pop(0) for mark in marks]
    turns = [(speaker, text.replace(VIDEO_MARK, DEFAULT_IMAGE_TOKEN)) for speaker, text in turns]
    if len(marks) == 1:  # the only one stands in front, on a line of its own, as upstream's do
        turns = [
            (speaker, f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip())
            if DEFAULT_IMAGE_TOKEN in text and not text.startswith(DEFAULT_IMAGE_TOKEN)
            else (speaker, text)
            for speaker, text in turns
        ]
    return Sample(name, system, turns, whole)


def _paths(value) -> list[str]:
    return [] if value in (None, "", []) else value if isinstance(value, list) else [value]


def tokenize(
    turns: Sequence[tuple[int, str]],
    tokenizer,
    *,
    template: str,
    system: str | None = None,
    assistant_only_loss: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(L,) ids with IMAGE_TOKEN_INDEX at the marks, and (L,) labels, -100 where nothing is learnt.

    As LLaVA-NeXT's trainer masks them. ChatML: the model's turns are learnt whole, of all others the marks of turns and
    the line breaks. plain: the last text, a caption, behind the mark of what it describes.
    assistant_only_loss: what the model says and the end of its turn are learnt, and nothing else.
    """
    conversation = conv_templates[template].copy()
    learnt_anywhere: set[int] = set()
    before, behind = 0, 0  # tokens of the model's turn that are not learnt
    if conversation.sep_style is SeparatorStyle.PLAIN:
        parts = [(0, DEFAULT_IMAGE_TOKEN), (1, turns[-1][1] + conversation.sep)]
    else:
        opening = conversation.system if system is None else f"<|im_start|>system\n{system}"
        parts = [(0, f"{opening}{conversation.sep}\n")]
        parts += [(who, f"{conversation.roles[who]}\n{text}{conversation.sep}\n") for who, text in turns]
        if assistant_only_loss:  # not the mark and the line break around what is said
            before, behind = len(tokenizer(f"{conversation.roles[1]}\n").input_ids), 1
        else:
            marks = (tokenizer(text).input_ids for text in ("<|im_start|>", conversation.sep, "\n"))
            learnt_anywhere = {ids[0] for ids in marks if len(ids) == 1}
    ids: list[int] = []
    labels: list[int] = []
    for speaker, text in parts:
        new = tokenizer_image_token(text, tokenizer)
        ids += new
        said = range(before, len(new) - behind) if speaker == 1 else ()
        labels += [t if place in said or t in learnt_anywhere else IGNORE_INDEX for place, t in enumerate(new)]
    labels = [IGNORE_INDEX if token < 0 else token for token in labels]
    labels[0] = IGNORE_INDEX  # nothing comes before it
    return torch.tensor(ids), torch.tensor(labels)
