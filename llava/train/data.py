"""Samples with their pixels, batches, and what happens to samples that cannot be read."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch.utils.data import Dataset

from llava.chat.prompt import default_sampling
from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.decoders.pillow_reader import PICTURES, read_picture
from llava.mm_utils import process_images
from llava.train.arguments import DataArguments
from llava.train.conversations import DataError, parse_sample, read_mixture, tokenize
from llava.video import load_video, time_text

UNREADABLE = (ValueError, OSError)  # VideoError and DataError are ValueErrors
VIDEO_WORDS = 1000  # what a video counts as when samples are grouped by length; an image counts a quarter


class Conversations(Dataset):
    """The samples of `data_path`, ready for the model.

    An item is a dict: input_ids and labels (L,), images, modalities, image_sizes and retentions by visual entry, and
    skipped, (name, reason) of samples before it that could not be read: the next one that can stands in for them.
    """

    def __init__(
        self, arguments: DataArguments, tokenizer, model, *, template: str, retention: list[float] | None, seed: int
    ):
        self.samples = read_mixture(arguments.data_path, seed=seed)
        if not self.samples:
            raise DataError(f"{arguments.data_path} holds no samples.")
        self.arguments, self.tokenizer, self.template = arguments, tokenizer, template
        self.config, self.processor = model.config, model.get_vision_tower().image_processor
        self.sampling = default_sampling(model.config)
        if arguments.frames_upbound or arguments.video_fps:
            count = arguments.frames_upbound or self.sampling.num_frames
            self.sampling = replace(self.sampling, num_frames=count, fps=arguments.video_fps or self.sampling.fps)
        self.retention, self.seed = retention, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        skipped = []
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                return self._load(place) | {"skipped": skipped}
            except UNREADABLE as error:
                name = str(self.samples[place].get("id", place))
                skipped.append((name, " ".join(str(error).split())))
        raise DataError(f"None of the {len(self)} samples can be read; the first: {skipped[0][1]}")

    @property
    def lengths(self) -> list[int]:
        """About how long each sample is, in words."""
        result = []
        for raw in self.samples:
            words = len(str(raw.get("conversations", "")).split())
            result.append(words + (VIDEO_WORDS if raw.get("video") else VIDEO_WORDS // 4 if raw.get("image") else 0))
        return result

    def _load(self, place: int) -> dict:
        sample = parse_sample(self.samples[place], place)
        images, sizes, turns = [], [], sample.turns
        for kind, path in sample.media:
            if kind == "image":
                image = Image.fromarray(read_picture(Path(self.arguments.image_folder, path), PICTURES)[0])
                # several images of a sample are squares, as upstream's
                config = self.config if len(sample.media) == 1 else SimpleNamespace(image_aspect_ratio="pad")
                images.append(process_images([image], self.processor, config)[0])
                sizes.append(image.size)
            else:
                pixels, turns = self._video(path, turns)
                images.append(pixels)
                sizes.append(tuple(pixels.shape[:-3:-1]))
        modalities = [kind for kind, _ in sample.media]
        if not images:  # every rank runs the tower in every step
            images, sizes, modalities = [torch.zeros(3, *self.processor.size)], [self.processor.size[::-1]], ["text"]
        masked = {"template": self.template, "assistant_only_loss": self.arguments.assistant_only_loss}
        ids, labels = tokenize(turns, self.tokenizer, system=sample.system, **masked)
        retention = None
        if self.retention is not None:
            retention = random.Random(f"{self.seed} {place}").uniform(self.retention[0], self.retention[-1])
        return {
            "input_ids": ids,
            "labels": labels,
            "images": images,
            "modalities": modalities,
            "image_sizes": sizes,
            "retentions": [retention] * len(images),
        }

    def _video(self, path: str, turns: list) -> tuple[torch.Tensor, list]:
        """uint8 pixels (F, 3, S, S), and the turns with the frames' times where the model is told them."""
        told = self.arguments.add_time_instruction
        video = load_video(
            Path(self.arguments.video_folder, path),
            num_frames=self.sampling.num_frames,
            fps=self.sampling.fps,
            force_sample=bool(self.arguments.force_sample),
        )
        if self.sampling.tell_times if told is None else told:
            first = next(i for i, (_, text) in enumerate(turns) if DEFAULT_IMAGE_TOKEN in text)
            mark, told_first = DEFAULT_IMAGE_TOKEN, f"{DEFAULT_IMAGE_TOKEN}\n{time_text(video)}"
            turns = [(who, text.replace(mark, told_first, 1) if i == first else text) for i, (who, text) in
                     enumerate(turns)]  # fmt: skip
        return self.processor.resize(video.frames), turns


@dataclass
class Collator:
    """Items to a batch that the model's forward takes, but for "skipped". pad: id of the padding."""

    pad: int

    def __call__(self, items: list[dict]) -> dict:
        length = max(len(item["input_ids"]) for item in items)

        def padded(name: str, value: int) -> torch.Tensor:
            rows = [item[name] for item in items]
            return torch.stack([torch.nn.functional.pad(row, (0, length - len(row)), value=value) for row in rows])

        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        batch = {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", IGNORE_INDEX),
            "attention_mask": torch.arange(length) < lengths.unsqueeze(1),
        }
        for name in ("images", "modalities", "image_sizes", "retentions", "skipped"):
            batch[name] = [entry for item in items for entry in item[name]]
        return batch
