"""``--model llava_onevision_aot`` and ``llava_vid_aot``: lmms-eval's LLaVA wrappers with the method."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from accelerate import Accelerator
from lmms_eval.models.simple import llava_onevision, llava_vid

from aot_cli.parser import cache_folder
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.lmms.arguments import (
    ONEVISION,
    VIDEO,
    check_decoder,
    check_family,
    check_pool,
    default_pool,
    read_config,
    split_arguments,
)
from llava.eval.lmms.build import OneProcess, device_of, exit_on_error, loading_to, replaced
from llava.eval.lmms.encoded import EncodedVideos
from llava.eval.lmms.measure import Measure
from llava.eval.lmms.questions import Question
from llava.eval.lmms.visuals import Visual, VisualError, generate, listed, marked
from llava.eval.lmms.wrapper import AOTWrapperMixin
from llava.mm_utils import process_images
from llava.video import Video
from llava.video_cache import encoder_cache


class LlavaMixin(AOTWrapperMixin):
    """A stock wrapper of LLaVA's models with the method. frames: of a video, where the checkpoint says nothing."""

    family: str
    frames: int
    effective: dict[str, Any]  # what else of the wrapper the replies depend on, as plain JSON values
    sampling: dict[str, Any]  # how the frames of a video are chosen
    _encoded: EncodedVideos | None = None

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        store: str | None = None,
        max_frames_num: int | None = None,
        mm_spatial_pool_mode: str | None = None,
        mm_spatial_pool_stride: int = 2,
        video_decode_backend: str = "auto",
        cache: str | None = None,
        cache_gb: float = 10.0,
        **arguments,
    ):
        """Arguments of the stock wrapper, the method's settings, and

        store: folder of the responses; a run that was interrupted goes on from there, and ranks share what is open.
        max_frames_num: frames a video, by default what the checkpoint was made for. mm_spatial_pool_mode: by default
        the one the checkpoint is evaluated with. video_decode_backend: "auto", "decord" or "pyav". cache: folder of
        encoded videos, or "auto" for the user's own; cache_gb: most of all of them.
        """
        with exit_on_error():
            config, rest = split_arguments(arguments)
            made = read_config(pretrained)
            pool = mm_spatial_pool_mode or default_pool(made)
            check_family(pretrained, made, self.family)
            check_pool(made, pool, mm_spatial_pool_stride)
            check_decoder(video_decode_backend)
            accelerator = Accelerator()
            place = device_of(accelerator.local_process_index, device)
            with replaced(self.stock, Accelerator=OneProcess, load_pretrained_model=loading_to(place)):
                super().__init__(
                    pretrained=pretrained,
                    max_frames_num=max_frames_num or made.get("mm_video_frames") or self.frames,
                    mm_spatial_pool_mode=pool,
                    **{**self.defaults(made), **rest, "device": str(place), "device_map": "auto"},
                )
            self._config.aot = config
            settings = {
                "aot": None if config is None else config.to_dict(),
                "frames": self.max_frames_num,
                "pool": self._config.mm_spatial_pool_mode,
                "newline_position": getattr(self._config, "mm_newline_position", None) or "one_token",
                "template": self.conv_template,
                "dtype": str(self._model.dtype).removeprefix("torch."),
                **self.effective,
            }
            self._prepare(accelerator, Measure(self._model), settings, store, video_decode_backend)
            if cache is not None:
                loaded = {"wrapper": self.stock_id, "dtype": settings["dtype"], "device": place.type}
                loaded["attention"] = self._config._attn_implementation
                folder = cache_folder(str(cache))
                self._encoded = EncodedVideos(self._model, encoder_cache(folder, cache_gb, pretrained, **loaded))

    def defaults(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the stock wrapper that differ from its own defaults. made: the checkpoint's config.json."""
        return {}

    def load_frames(self, path: str, **sampling) -> Video:
        return super().load_frames(path, **sampling) if self._encoded is None else self._encoded.read(path, **sampling)

    def _ask(self, question: Question, doc_to_visual: Callable) -> str:
        """The reply to one question, about all of its visuals."""
        visuals = listed(doc_to_visual(self._doc(question)))
        alone = self.stock_sees_all(visuals, question.prompt)
        ask = self._ask_stock if alone else self._ask_about_several
        with nullcontext() if self._encoded is None else self._encoded.question(alone=alone):
            return ask(question, visuals)

    @abstractmethod
    def stock_sees_all(self, visuals: list[Visual], prompt: str) -> bool:
        """Whether the stock wrapper answers such a question from all of its visuals."""

    def _ask_about_several(self, question: Question, visuals: list[Visual]) -> str:
        """One question about videos and images in their order: each video with its own frames and its own budget."""
        prompt = marked(question.prompt, len(visuals))
        pixels, kinds = [], []
        for visual in visuals:
            if isinstance(visual, str):
                frames = self.read(visual, **self.sampling).frames
                shown = self._image_processor.preprocess(frames, return_tensors="pt")["pixel_values"]
            else:  # as the stock wrappers show one of several images: whole, padded to a square
                (shown,) = process_images([visual], self._image_processor, SimpleNamespace(image_aspect_ratio="pad"))
            pixels.append(shown.to(self._device, self._model.dtype))
            kinds.append("video" if isinstance(visual, str) else "image")
        self._measure.images = kinds.count("image")
        given = {"max_new_tokens": 1024, "do_sample": False, **question.generation}
        for name in ("until", "image_aspect_ratio"):
            given.pop(name, None)
        if not given["do_sample"]:
            given = {key: value for key, value in given.items() if key not in ("temperature", "top_p", "top_k")}
        reply, self._measure.text = generate(
            self._model, self.tokenizer, prompt, pixels, kinds, template=self.conv_template, use_cache=self.use_cache,
            pad_token_id=self.tokenizer.pad_token_id, **given,
        )  # fmt: skip
        return reply


class LlavaOneVisionAOT(LlavaMixin, llava_onevision.Llava_OneVision):
    """Arguments: those of `LlavaMixin`."""

    stock, stock_id, family, frames = llava_onevision, "llava_onevision", ONEVISION, 32

    @property
    def effective(self) -> dict:
        return {"strategy": self.token_strategy}

    @property
    def sampling(self) -> dict:
        return {"num_frames": self.max_frames_num}

    def stock_sees_all(self, visuals: list[Visual], prompt: str) -> bool:
        """It does for images alone and for one video; of several videos it sees the first."""
        return len(visuals) <= 1 or not any(isinstance(visual, str) for visual in visuals)

    def load_video(self, video_path, max_frames_num):
        path = video_path if isinstance(video_path, str) else video_path[0]
        return self.read(path, num_frames=max_frames_num).frames


class LlavaVidAOT(LlavaMixin, llava_vid.LlavaVid):
    """Arguments: those of `LlavaMixin`; mm_newline_position is the checkpoint's by default, conv_template
    qwen_1_5, and max_frames_num the most frames a video.
    """

    stock, stock_id, family, frames = llava_vid, "llava_vid", VIDEO, 64

    def defaults(self, made) -> dict:
        return {"mm_newline_position": made.get("mm_newline_position") or "grid", "conv_template": "qwen_1_5"}

    @property
    def effective(self) -> dict:
        return {"fps": self.fps, "force_sample": self.force_sample, "times": self.add_time_instruction}

    @property
    def sampling(self) -> dict:
        return {"num_frames": self.max_frames_num, "fps": self.fps, "force_sample": self.force_sample}

    def stock_sees_all(self, visuals: list[Visual], prompt: str) -> bool:
        """It does for one video, before which it puts the mark, so the prompt must not have one of its own."""
        if not visuals:
            raise VisualError("The question shows nothing, and this wrapper answers questions about videos only.")
        alone = len(visuals) == 1 and isinstance(visuals[0], str) and DEFAULT_IMAGE_TOKEN not in prompt
        if not alone and self.add_time_instruction:
            raise VisualError("add_time_instruction speaks of one video, and this question shows something else.")
        return alone

    def load_video(self, video_path, max_frames_num, fps, force_sample=False):
        """(frames, their times as text, seconds of the video)."""
        video = self.read(video_path, num_frames=max_frames_num, fps=fps, force_sample=force_sample)
        return video.frames, ",".join(f"{time:.2f}s" for time in video.times), video.duration
