"""``--model qwen2_5_vl_aot``, ``qwen3_vl_aot`` and ``internvl_aot``: lmms-eval's wrappers with the method.

Prompts, defaults and the call of `generate` are the stock wrapper's. Videos are read as the chat reads them, so that
what cannot be read is a recorded failure, and neither torchvision nor qwen_vl_utils is needed. Images are resized and
cut by transformers' own processors on Pillow, and are never reduced.
"""

import base64
import io
import re
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.models.chat import internvl_hf
from lmms_eval.models.simple import qwen2_5_vl, qwen3_vl
from PIL import Image
from transformers import BatchFeature

import aot
from aot import AOTConfig
from llava.eval.lmms.arguments import check_decoder, read_config, split_arguments
from llava.eval.lmms.build import OneProcess, device_of, exit_on_error, replaced
from llava.eval.lmms.measure import Measure
from llava.eval.lmms.questions import Question
from llava.eval.lmms.visuals import Visual, VisualError
from llava.eval.lmms.wrapper import AOTWrapperMixin
from llava.hf.checkpoint import Checkpoint, checkpoint_of
from llava.hf.video_processor import Sampling
from llava.model.builder import load_tokenizer
from llava.model.checkpoint import local_folder
from llava.video import Video

_MARK = "#.mp4"  # behind a path, so that the stock wrapper takes any file for a video
_PROMPT = ("system_prompt", "reasoning_prompt", "interleave_visuals", "enable_thinking")  # of the Qwen wrappers


class FamilyMeasure(Measure):
    """Clock and counters on a model of transformers.

    before: visual tokens of each video before reduction. image_tokens: of all images.
    """

    def __init__(self, model: Any, applied: aot.Applied | None):
        inner = model.model
        tower = inner.visual if hasattr(inner, "visual") else inner.vision_tower
        tower.register_forward_pre_hook(lambda *_: self._tower(-1))
        tower.register_forward_hook(lambda *_: self._tower(1))
        self.applied = applied
        super().__init__(model)

    def reset(self) -> None:
        self.before: list[int] = []
        self.image_tokens, self.tower = 0, 0.0

    def _tower(self, sign: int) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self.tower += sign * time.perf_counter()

    def stages(self) -> dict[str, float]:
        """tower (with its merger) and compress."""
        compress = {} if self.applied is None or not self.frames else {"compress": self.applied.seconds}
        return {"tower": self.tower, **compress}

    def tokens(self) -> dict[str, Any]:
        beside = {"images": self.images, "image_tokens": self.image_tokens} if self.images and self.before else {}
        if self.before and self.applied is not None and self.applied.config.tower_reuse is not None:
            beside["tower_share"] = round(self.applied.tower_share, 6)
        return {**super().tokens(), **beside}

    def videos(self) -> list[dict[str, int]]:
        if not self.before:  # a video that was read did not become a prompt
            return []
        last = [] if self.applied is None else self.applied.last
        after = [one.num_visual for one in last] if len(last) == len(self.before) else self.before
        return [
            {"frames": frames, "visual_before": before, "newlines_before": 0, "visual": left, "newlines": 0}
            for frames, before, left in zip(self.frames, self.before, after, strict=True)
        ]


class FamilyMixin(AOTWrapperMixin):
    """A stock wrapper of transformers' models with the method; `stock` is its module, `kinds` what it can load.

    Arguments are the stock wrapper's, the method's settings, and store and video_decode_backend as in
    `LlavaOneVisionAOT`.
    """

    stock: ModuleType
    kinds: tuple[str, ...]  # model_type of config.json
    arguments: dict[str, str] = {}  # names of its arguments: num_frames, fps, max_pixels, total_pixels

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        store: str | None = None,
        video_decode_backend: str = "auto",
        **arguments: Any,
    ):
        with exit_on_error():
            config, rest = split_arguments(arguments)
            if "cache" in rest:
                raise ValueError("cache is for llava_onevision_aot and llava_vid_aot; leave it out.")
            rest.pop("device_map", None)
            kind = read_config(pretrained).get("model_type")
            if kind not in self.kinds:  # the stock wrapper would load some of its weights, and draw the others
                raise ValueError(f"{pretrained} is a {kind!r} checkpoint; this wrapper takes {', '.join(self.kinds)}.")
            check_decoder(video_decode_backend)
            accelerator, folder = Accelerator(), local_folder(pretrained)
            place = str(device_of(accelerator.local_process_index, device))
            names = {"Accelerator": OneProcess, "AutoProcessor": _Unprocessed}
            if hasattr(self.stock, "_resolve_model_class"):  # which takes a mixture of experts by its path
                resolve = self.stock._resolve_model_class
                names["_resolve_model_class"] = lambda path, _: resolve(path, kind.endswith("_moe"))
            with replaced(self.stock, **names):
                super().__init__(pretrained=pretrained, device=place, device_map=place, **rest)
            self.pretrained = pretrained
            measure, settings = self._apply(folder, config)
            self._prepare(accelerator, measure, settings, store, video_decode_backend)

    def _apply(self, folder: Path, config: AOTConfig | None) -> tuple[FamilyMeasure, dict[str, Any]]:
        """Puts the method into the model, and our processor into the place of the stock one."""
        sampling = {name: getattr(self, held) for name, held in self.arguments.items() if name != "total_pixels"}
        chosen = Sampling(**sampling)
        changed = {"min_pixels": self.min_pixels} if hasattr(self, "min_pixels") else {}
        parts = checkpoint_of(self._model, folder, chosen, **changed)
        total = getattr(self, self.arguments.get("total_pixels", ""), None)
        if total is not None:  # the stock wrapper counts pixels of all frames
            tokens = total // (parts.processor.factor**2 * parts.processor.settings["temporal_patch_size"])
            parts = checkpoint_of(self._model, folder, replace(chosen, total_tokens=tokens, max_pixels=None), **changed)
        applied = None if config is None else aot.apply(self._model, config=config)
        measure = FamilyMeasure(self._model, applied)
        self.processor = _Processor(parts, self.read, self.image_options, measure, told=applied is not None)
        return measure, {
            "aot": None if config is None else config.to_dict(),
            **{name: getattr(self, held) for name, held in self.arguments.items()},
            **changed,
            "images": self.image_options,
            **{name: getattr(self, name) for name in _PROMPT if hasattr(self, name)},
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }

    def read(self, path: str) -> Video:
        """The frames of a video that the processor chooses."""
        return super().read(path.removesuffix(_MARK), choose=self.processor.parts.processor.choose)

    @property
    def image_options(self) -> dict[str, Any]:
        """What the stock wrapper tells transformers' image processor."""
        return {"size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}}

    def _ask_stock(self, question: Question, visuals: list[Visual]) -> str:
        if getattr(self, "interleave_visuals", False):  # it puts only those into the prompt that this names
            named = {int(number) for number in re.findall(r"<image (\d+)>", question.prompt)}
            if named != set(range(1, len(visuals) + 1)):
                raise VisualError(
                    f"The prompt names {len(named)} of {len(visuals)} visuals; leave interleave_visuals out."
                )
        names = {
            "process_vision_info": self.processor.videos_of,
            "decord": SimpleNamespace(VideoReader=_Unread),
        }
        with replaced(self.stock, **{name: value for name, value in names.items() if hasattr(self.stock, name)}):
            shown = [visual + _MARK if isinstance(visual, str) else visual for visual in visuals]
            reply = super()._ask_stock(question, shown)
        if self._measure.first is None and self._measure.failure is None:
            raise RuntimeError("the model made no token; the log says why")
        return reply


class _AsMessages:
    """Hands a stock wrapper that wants messages what a task shows and asks."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        for request in requests:
            prompt, generation, doc_to_visual, *place = request.args
            content = [
                {"type": "video" if isinstance(visual, str) else "image", "url": visual}
                for visual in doc_to_visual(None)
            ]
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
            request.arguments = (prompt, lambda _, said=messages: said, generation, *place)
        return [result.text for result in super().generate_until(requests)]


class Qwen25VLAOT(FamilyMixin, qwen2_5_vl.Qwen2_5_VL):
    stock_id, stock, kinds = "qwen2_5_vl", qwen2_5_vl, ("qwen2_5_vl",)
    arguments = {"num_frames": "max_num_frames", "fps": "fps", "max_pixels": "max_pixels"}


class Qwen3VLAOT(FamilyMixin, qwen3_vl.Qwen3_VL):
    stock_id, stock, kinds = "qwen3_vl", qwen3_vl, ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
    arguments = {**Qwen25VLAOT.arguments, "total_pixels": "total_pixels"}


class InternVLAOT(FamilyMixin, _AsMessages, internvl_hf.InternVLHf):
    stock_id, stock, kinds, is_simple = "internvl_hf", internvl_hf, ("internvl",), True
    arguments = {"num_frames": "num_frames", "fps": "fps"}

    @property
    def image_options(self) -> dict[str, Any]:
        return {"crop_to_patches": True, "min_patches": self.min_patches, "max_patches": self.max_patches}


class _Shown:
    """A video that a stock wrapper counts and thins."""

    def __init__(self, video: Video):
        self.video, self.shape = video, video.frames.shape

    def __getitem__(self, indices: Any) -> "_Shown":
        return _Shown(replace(self.video, frames=self.video.frames[indices], times=self.video.times[indices]))


class _Processor:
    """What the stock wrappers call, on our parts. told: does the model know `video_frames`?"""

    def __init__(self, parts: Checkpoint, read: Any, image_options: dict, measure: FamilyMeasure, *, told: bool):
        self.parts, self.tokenizer, self._read, self._measure, self._told = parts, parts.tokenizer, read, measure, told
        self._image_options = image_options
        self.batch_decode = parts.tokenizer.batch_decode

    def apply_chat_template(self, messages: list, **_: Any) -> str | list[str]:
        if messages and isinstance(messages[0], list):
            return [self.apply_chat_template(one) for one in messages]
        return self.parts.prompt([{**one, "content": _listed(one["content"])} for one in messages])

    def videos_of(self, messages: list, **options: Any) -> tuple:
        """In the place of qwen_vl_utils' process_vision_info."""
        content = [part for one in messages for message in one for part in _listed(message["content"])]
        paths = [part["video"] for part in content if part["type"] == "video"]
        videos = [_Shown(self._read(path)) for path in paths] or None
        images = [_image(part["image"]) for part in content if part["type"] == "image"] or None
        if options.get("return_video_metadata"):
            return images, videos and [(video, None) for video in videos], {}
        return images, videos

    def __call__(self, *, text: Any, images: list | None = None, videos: list | None = None, **_: Any) -> BatchFeature:
        (prompt,) = [text] if isinstance(text, str) else text
        shown = [self._read(one) if isinstance(one, str) else one.video for one in videos or ()]
        pixels = [self.parts.processor.inputs(video) for video in shown]
        tokens = self.parts.tokens
        self._measure.frames = [len(video.frames) for video in shown]
        texts = [self.parts.processor.text(video, one, tokens) for video, one in zip(shown, pixels, strict=True)]
        self._measure.before = [one.count(tokens.video) for one in texts]
        pictures = [self.parts.image(one, **self._image_options) for one in images or ()]
        self._measure.images = len(pictures)
        texts = [self.parts.processor.image_text(one, tokens) for one in pictures]
        self._measure.image_tokens = sum(one.count(tokens.image) for one in texts)
        inputs = self.parts.inputs(prompt, shown, pixels, pictures)
        if not self._told:
            inputs.pop("video_frames", None)
        return BatchFeature(inputs)


def _image(given: str | Image.Image) -> Image.Image:
    """An image of a message, in which Qwen2.5-VL's stock wrapper writes a JPEG as a data URL."""
    if isinstance(given, str):
        return Image.open(io.BytesIO(base64.b64decode(given.partition(",")[2])))
    return given


def _listed(content: str | list[dict]) -> list[dict]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class _Unprocessed:
    """In the place of AutoProcessor, whose video processors need torchvision."""

    @staticmethod
    def from_pretrained(path: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(tokenizer=load_tokenizer(local_folder(path)))


class _Unread:
    """In the place of decord's reader, by which the stock wrappers look at a file before it is read."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(asnumpy=lambda: torch.zeros(1, 1, 3).numpy())
