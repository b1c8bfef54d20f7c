"""Sits the held-out exam with a model under several settings: `python -m llava.eval.evaluate`.

A setting is "full" (no compression), "blank" (no compression, grey frames) or METHOD@RETENTION such as aot@0.1 or
random@0.1, with further fields of AOTConfig behind it (aot@0.1,clips=dynamic). Each leaves a JSON file of every reply;
files that are there already are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from aot import AOTConfig
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.eval.clips import sample_clip
from llava.eval.exam import QUESTIONS, SEED, Item, clip_files, make_exam
from llava.eval.questions import CAPTION_PROMPTS, caption, caption_f1, choice_correct, open_correct
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.video import load_video

DEFAULT_SETTINGS = ("full", "aot@0.25", "aot@0.15", "aot@0.1", "random@0.1", "blank")
FORMS = ("open", "choice", "likelihood", "caption")
CAPTIONED = 50  # clips whose captions are scored


@dataclass(frozen=True)
class Reply:
    """One reply and its score in 0..1.

    form: "open" (words), "choice" (the letter of one of four options), "likelihood" (the option that is the likeliest
    open answer) or "caption".
    """

    clip: int
    family: str
    form: str
    question: str
    truth: str
    said: str
    score: float


def parse_setting(name: str) -> tuple[AOTConfig | None, bool]:
    """(compression or None, whether the frames are blanked) of a setting's name; ValueError when it is none."""
    if name in ("full", "blank"):
        return None, name == "blank"
    head, *fields = name.split(",")
    method, _, retention = head.partition("@")
    try:
        changes = dict(field.split("=", 1) for field in fields)
        settings = {key: _value(text) for key, text in changes.items()}
        return AOTConfig.from_dict({"method": method, "retention": float(retention), **settings}), False
    except ValueError as error:
        known = "full, blank or METHOD@RETENTION[,FIELD=VALUE…]"
        raise ValueError(f"{name!r} is not a setting ({known}): {error}") from error


def _value(text: str):
    """A number, true, false or null as in JSON; anything else is a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class Examiner:
    """A model with what is needed to put questions to it."""

    def __init__(self, model, tokenizer, processor):
        self.model, self.tokenizer, self.processor = model, tokenizer, processor

    @torch.inference_mode()
    def encode(self, frames, config: AOTConfig | None):
        """Sets the compression and encodes a video (T, H, W, 3) for it."""
        self.model.config.aot = None if config is None else config.to_dict()
        pixels = self.processor.preprocess(frames, return_tensors="pt")["pixel_values"]
        return self.model.encode_video(pixels.to(self.model.device))

    @torch.inference_mode()
    def likeliest(self, video, prompt: str, options: tuple[str, ...]) -> str:
        """The option with the highest likelihood as the whole answer to the prompt (end of the answer included)."""
        asked = self._ids(prompt)
        said = [self.tokenizer(f"{option}<|im_end|>").input_ids for option in options]
        longest, pad = max(map(len, said)), self.tokenizer.pad_token_id
        rows = [asked + s + [pad] * (longest - len(s)) for s in said]
        labels = [[-100] * len(asked) + s + [-100] * (longest - len(s)) for s in said]
        *_, embeds, labels = self.model.prepare_inputs_labels_for_multimodal(
            torch.tensor(rows).to(self.model.device), None, None, None, torch.tensor(labels).to(self.model.device),
            [video] * len(rows), ["video"] * len(rows),
        )  # fmt: skip
        logits = self.model(inputs_embeds=embeds, logits_to_keep=longest + 1).logits[:, :-1].float()
        labels = labels[:, -longest:]
        chance = logits.log_softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return options[int((chance * (labels >= 0)).sum(-1).argmax())]

    @torch.inference_mode()
    def ask(self, video, prompts: list[str], *, new_tokens: int) -> list[str]:
        """Greedy replies to several prompts about one encoded video, in one batch."""
        rows = [self._ids(prompt) for prompt in prompts]
        length, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])
        out = self.model.generate(
            ids.to(self.model.device),
            images=[video] * len(rows),
            modalities=["video"] * len(rows),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=pad,
        )
        return [s.strip() for s in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def _ids(self, prompt: str) -> list[int]:
        conversation = conv_templates["qwen_1_5"].copy()
        conversation.append_message(conversation.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{prompt}")
        conversation.append_message(conversation.roles[1], None)
        return list(tokenizer_image_token(conversation.get_prompt(), self.tokenizer, IMAGE_TOKEN_INDEX))


def read_frames(files: dict[int, Path], count: int, progress=None) -> dict[int, np.ndarray]:
    """The frames (count, H, W, 3) that the model looks at, of every clip."""
    frames = {}
    for number, path in files.items():
        frames[number] = load_video(str(path), num_frames=count).frames
        if progress:
            progress("decode", len(frames), len(files))
    return frames


def sit(examiner: Examiner, items: list[Item], clips: dict[int, np.ndarray], setting: str, progress=None):
    """All replies under a setting, clip by clip. clips: frames (T, H, W, 3) by clip number."""
    config, blank = parse_setting(setting)
    replies = []
    for done, (number, frames) in enumerate(sorted(clips.items())):
        if blank:
            frames = np.full_like(frames, 127)
        video = examiner.encode(frames, config)
        mine = [item for item in items if item.clip == number]
        prompts = [item.question.open_prompt() for item in mine] + [item.choice_prompt for item in mine]
        said = examiner.ask(video, prompts, new_tokens=8)
        for item, words, letter in zip(mine, said[: len(mine)], said[len(mine) :], strict=True):
            q = item.question
            right = open_correct(words, q.answer), choice_correct(letter, item.letter)
            replies.append(Reply(number, q.family, "open", q.text, q.answer, words, float(right[0])))
            replies.append(Reply(number, q.family, "choice", q.text, item.letter, letter, float(right[1])))
        for item in mine:
            q = item.question
            best = examiner.likeliest(video, q.open_prompt(), item.options)
            replies.append(Reply(number, q.family, "likelihood", q.text, q.answer, best, float(best == q.answer)))
        if done < CAPTIONED:
            truth = caption(sample_clip(number))
            (words,) = examiner.ask(video, [CAPTION_PROMPTS[0]], new_tokens=120)
            score = caption_f1(words, truth)
            replies.append(Reply(number, "caption", "caption", CAPTION_PROMPTS[0], truth, words, score))
        if progress:
            progress(setting, done + 1, len(clips))
    return replies


def fingerprint(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path", type=Path, default=Path("checkpoints/aot-tiny"))
    parser.add_argument("--settings", nargs="+", default=DEFAULT_SETTINGS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=SEED, help="the exam's first clip")
    parser.add_argument("--output", type=Path, default=Path("runs/exam"), help="folder of replies and clips")
    args = parser.parse_args(arguments)
    try:
        for setting in args.settings:
            parse_setting(setting)  # before any work
    except ValueError as error:
        parser.error(str(error))
    items = make_exam(args.questions, seed=args.seed)
    files = clip_files(items, args.output / "clips")
    tokenizer, model, processor, _ = load_pretrained_model(str(args.model_path), None, "", device_map="auto")
    examiner, weights = Examiner(model, tokenizer, processor), fingerprint(args.model_path)
    clips: dict[int, np.ndarray] = {}
    for setting in args.settings:
        config, _ = parse_setting(setting)
        header = {
            "setting": setting, "aot": config and config.to_dict(), "weights": weights,
            "questions": len(items), "seed": args.seed, "torch": torch.__version__,
        }  # fmt: skip
        path = args.output / f"{setting}-{args.seed}-{len(items)}.json"
        if path.exists() and json.loads(path.read_text())["header"] == header:
            continue
        clips = clips or read_frames(files, getattr(model.config, "mm_video_frames", 32), _progress)
        started = time.perf_counter()
        replies = sit(examiner, items, clips, setting, _progress)
        seconds = round(time.perf_counter() - started, 1)
        part = path.with_suffix(".part")
        rows = [asdict(r) for r in replies]
        part.write_text(json.dumps({"header": header, "seconds": seconds, "replies": rows}, indent=0))
        part.rename(path)
        scores = {f: [r.score for r in replies if r.form == f] for f in FORMS}
        print(setting, {f: round(100 * sum(s) / max(len(s), 1), 1) for f, s in scores.items()}, f"{seconds} s")


def _progress(setting: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{setting}: clip {done} of {total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
