"""vLLM's Qwen-VL models with `aot.compress` where vLLM has its own pruning of videos.

A video takes as many places in the prompt as tokens are kept of it. The encoder gives each row of them with its
positions behind it, which are put into the prompt when the row is read. All other positions are known in advance.

Qwen3-VL has text between frames, and it is not known yet which frame keeps how many tokens. In the prompt all of them
stand in the first frame. The encoder then gives the whole run of a video: timestamps and marks of frames as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl_moe import Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeProcessingInfo
from vllm.model_executor.models.utils import StageMissingLayer
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import PromptUpdate, PromptUpdateDetails

from ..integrations.hf_generate import EncodedVideo
from ..integrations.qwen_tower import TowerReader
from ..integrations.qwen_vl import FAMILY
from ..integrations.vision_outputs import capturing, watch_attention
from .processing import SettingsInModelId
from .settings import VideoSettings

BASES = (2**16, 2**8, 1)  # every dtype of features holds the whole numbers up to 256


class Info(SettingsInModelId, Qwen3VLProcessingInfo):
    """The most places that a video of Qwen3-VL takes."""

    def get_max_video_tokens(self, seq_len: int, mm_counts: Mapping[str, int]) -> int:
        """The tokens of a video of most pixels, and the timestamps and marks of as many frames as it may have."""
        most = self.videos.token_count(1, super().get_max_video_tokens(seq_len, mm_counts))
        marks = len(self.get_tokenizer().encode("<99999.9 seconds>", add_special_tokens=False)) + 2
        step = self.get_hf_config().vision_config.temporal_patch_size
        return most + marks * -(-self.videos.frames // step)


class MoeInfo(Info, Qwen3VLMoeProcessingInfo):
    """The same of its mixture of experts."""


class Info3_5(Info, Qwen3_5ProcessingInfo):
    """The same of Qwen3.5."""


class MoeInfo3_5(Info, Qwen3_5MoeProcessingInfo):
    """The same of its mixture of experts."""


class Info2_5(SettingsInModelId, Qwen2_5_VLProcessingInfo):
    """The most places that a video of Qwen2.5-VL takes, whose frames have the size of images."""

    def get_num_frames_with_most_features(self, seq_len: int, mm_counts: Mapping[str, int], **given: Any) -> int:
        """No more than the server is started for."""
        return min(super().get_num_frames_with_most_features(seq_len, mm_counts, **given), self.videos.frames)

    def get_max_video_tokens(self, seq_len: int, mm_counts: Mapping[str, int]) -> int:
        """The tokens of a video of as many frames as it may have, each of most pixels."""
        step = self.get_hf_config().vision_config.temporal_patch_size
        return min(self.videos.token_count(-(-self.videos.frames // step), self.get_max_image_tokens()), seq_len)


class Places:
    """Before a processor of vLLM's: places for exactly the tokens that are kept of a video.

    run: of a family, what a video becomes in the prompt, by the tokens of each frame, its item and the configuration.
    """

    info: Any
    run: Callable[[list[int], Mapping[str, Any], Any], PromptUpdateDetails]

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, Any],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        vision, most = config.vision_config, self.info.videos.frames

        def places(number: int) -> PromptUpdateDetails:
            item = out_mm_kwargs["video"][number]
            frames, height, width = item["video_grid_thw"].data.tolist()
            step = vision.temporal_patch_size
            self.info.videos.check_frames(frames * step - (-most % step))  # a last frame alone is read twice
            tokens = self.info.videos.token_count(frames, height * width // vision.spatial_merge_size**2)
            return self.run([tokens] + [0] * (frames - 1), item, config)

        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [
            replace(update, target=self.target(update.target, config), replacement=places)
            if update.modality == "video"
            else update
            for update in updates
        ]

    def target(self, of_vllm: Any, config: Any) -> Any:
        """What stands in a prompt for a video."""
        return of_vllm


class Processor(Places, Qwen3VLMultiModalProcessor):
    """Qwen3-VL and Qwen3.5."""

    def run(self, tokens: list[int], item: Mapping[str, Any], config: Any) -> PromptUpdateDetails:
        return self.get_video_repl(
            tokens_per_frame=tokens,
            timestamps=item["timestamps"].data,
            tokenizer=self.info.get_tokenizer(),
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            video_token_id=config.video_token_id,
        )


class Processor2_5(Places, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL. The marks around a video are part of it, since its positions count from the first of them."""

    def target(self, of_vllm: Any, config: Any) -> Any:
        return self._marked([config.video_token_id], config)

    def run(self, tokens: list[int], item: Mapping[str, Any], config: Any) -> PromptUpdateDetails:
        run = self._marked([config.video_token_id] * sum(tokens), config)
        return PromptUpdateDetails.select_token_id(run, config.video_token_id)

    def _marked(self, ids: list[int], config: Any) -> list[int]:
        return [config.vision_start_token_id, *ids, config.vision_end_token_id]

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, Any]) -> Any:
        """Seconds in float32 again, which vLLM rounds to the model's dtype."""
        found = super()._call_hf_processor(hf_data, {**hf_kwargs, "return_metadata": True})
        videos, step = found.pop("video_metadata", None), self.info.get_hf_config().vision_config.temporal_patch_size
        if videos:
            found["second_per_grid_ts"] = torch.tensor([step / video.sampled_fps for video in videos])
        return found


class Reader(TowerReader):
    """What methods read from vLLM's tower, where every rank has its share of the heads."""

    def __init__(self, tower: Any, needs: Sequence[str]):
        super().__init__(tower, needs)
        watch_attention([block.attn for block in tower.blocks])

    def read(self, captured: Mapping[str, Any], thw: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        videos = super().read(captured, thw)
        ranks = self.tower.blocks[0].attn.tp_size
        if ranks > 1:
            for video in videos:
                for name, value in video.items():
                    video[name] = tensor_model_parallel_all_reduce(value.contiguous()) / ranks
        return videos

    def _raster(self, thw: torch.Tensor) -> Any:
        if not hasattr(self.tower, "window_size"):
            return slice(None)
        return self.tower.prepare_encoder_metadata(thw.tolist())["reverse_indices"]

    def _heads(self, attention: Any, given: Any, *, rotated: bool) -> tuple[torch.Tensor, torch.Tensor]:
        (hidden,), call = given  # (n, 1, D)
        heads = attention.num_attention_heads_per_partition
        both = attention.qkv(hidden)[0][:, 0].unflatten(-1, (3, heads, -1))[:, :2].transpose(0, 1).contiguous()
        if rotated:
            both = attention.apply_rotary_emb(both, call["rotary_pos_emb_cos"], call["rotary_pos_emb_sin"])
        return both[0], both[1]


def behind(start: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, first: int | torch.Tensor) -> torch.Tensor:
    """(n, 12) digits of how far the three positions of each row, and it itself, are behind its video's first mark.

    start, rows, columns: (n,) positions. first: at which row the mark is.
    """
    itself = torch.arange(len(start), device=start.device) - first
    numbers = torch.stack([start, rows, columns, itself], dim=-1)
    return torch.cat([numbers // BASES[0], numbers // BASES[1] % 256, numbers % 256], dim=-1)


class ReducedVideos:
    """Before a class of vLLM's: videos are encoded and compressed one by one; images go their usual way.

    A family has two methods of its own. run: (n, D · (1 + levels) + 12) what stands in the prompt for a video, by the
    rows of its tokens, their places, the input and the video's number in it. advance: positions that the frames of a
    video take, by their (T, H, W) tokens and the video's data.
    """

    config: Any
    visual: Any
    run: Callable[[torch.Tensor, torch.Tensor, Any, int], torch.Tensor]
    advance: Callable[[tuple[int, int, int], Mapping[str, Any]], int]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.videos = VideoSettings.read(self.config)
        if not isinstance(self.visual, StageMissingLayer):  # a server without videos and pictures has no tower
            self.reader = Reader(self.visual, self.videos.config.requires)

    def _process_video_input(self, video_input: Any) -> tuple[torch.Tensor, ...]:
        """Of each video its rows in the prompt, (n, D · (1 + levels) + 12): embedding, DeepStack rows and positions."""
        thw = video_input["video_grid_thw"]
        with capturing(self.reader.names) as captured:
            encoded = super()._process_video_input(video_input)  # (T·P, D · (1 + levels)) each
        outputs = self.reader.read(captured, thw)
        merge, width, runs = self.visual.spatial_merge_size, self.config.vision_config.out_hidden_size, []
        for number, (frames, *sides) in enumerate(thw.tolist()):
            features, *levels = encoded[number].split(width, dim=-1)
            grid = (sides[0] // merge, sides[1] // merge)
            video = EncodedVideo(features.unflatten(0, (frames, -1)), outputs[number], grid, levels=tuple(levels))
            kept = FAMILY.kept(self, video, self.videos.config)
            places, order = FAMILY.placeholder_index(kept.video).sort(stable=True)
            rows = torch.cat([kept.video.tokens, *kept.levels], dim=-1)[order]
            runs.append(self.run(rows, places, video_input, number))
        return tuple(runs)

    def _postprocess_video_embeds_evs(self, embeds: tuple[torch.Tensor, ...], _: Any) -> tuple[torch.Tensor, ...]:
        return embeds

    _postprocess_image_embeds_evs = _postprocess_video_embeds_evs  # positions of images are known

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        """(3, N) positions of a prompt; inside a video only those before its tokens and of its last row are right."""
        merge = self.config.vision_config.spatial_merge_size
        parts, seen, start = [], 0, 0  # tokens behind us, and the position of the next one
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            offset, length = feature.mm_position.offset, feature.mm_position.length
            parts.append(torch.arange(start, start := start + offset - seen).expand(3, -1))
            frames, height, width = feature.data[f"{feature.modality}_grid_thw"].data.tolist()
            height, width = height // merge, width // merge
            if feature.modality == "image":
                span = max(height, width)
                part = torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width)).T
            else:
                tokens = input_tokens[offset : offset + length].count(self.config.video_token_id)
                span = length - tokens + self.advance((frames, height, width), feature.data)
                part = torch.arange(length).clamp_max(span - 1).expand(3, -1).clone()
                part[:, -1] = span - 1
            parts.append(start + part)
            seen, start = offset + length, start + span
        parts.append(torch.arange(start, start := start + len(input_tokens) - seen).expand(3, -1))
        return torch.cat(parts, dim=1), start - len(input_tokens)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | torch.Tensor,
        multimodal_embeddings: Sequence[torch.Tensor],
        mrope_positions: torch.Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[torch.Tensor], torch.Tensor, int]:
        """Takes the positions off the rows that are read now and puts them into the prompt's, (3, N)."""
        positions, at, cleaned = mrope_positions.clone(), num_computed_tokens, []
        width = self.visual.out_hidden_size  # DeepStack rows included
        video = torch.as_tensor(input_ids, device=positions.device) == self.config.video_token_id
        marks = (video[1:] & ~video[:-1]).nonzero().squeeze(-1)  # of the first frame of each video
        for part in multimodal_embeddings:
            cleaned.append(part[:, :width])
            if part.shape[1] == width:
                continue
            digits = part[:, width:].to(positions).unflatten(-1, (3, 4))
            numbers = sum(base * digit for base, digit in zip(BASES, digits.unbind(1), strict=True))  # (n, 4)
            places = marks + numbers[0, 3]
            which = int((places < at).sum())  # rows come in the order of the prompt, from `at` on
            at = int(places[which]) + len(part)
            positions[:, at - len(part) : at] = positions[:, marks[which], None] + numbers[:, :3].T
        return cleaned, positions, int(positions.max()) + 1 - len(video)


class ReducedRun(ReducedVideos):
    """Videos whose tokens follow each other, with positions by the seconds of their frames (Qwen2.5-VL)."""

    def run(self, rows: torch.Tensor, places: torch.Tensor, video_input: Any, number: int) -> torch.Tensor:
        merge = self.visual.spatial_merge_size
        frames, height, width = video_input["video_grid_thw"][number].tolist()
        height, width = height // merge, width // merge
        times = self.times(frames, video_input["second_per_grid_ts"][number]).to(places.device)
        time, row, column = times[places // (height * width)], places // width % height, places % width
        return torch.cat([rows, behind(1 + time, 1 + row, 1 + column, -1).to(rows)], dim=-1)

    def advance(self, grid: tuple[int, int, int], data: Mapping[str, Any]) -> int:
        frames, height, width = grid
        return max(int(self.times(frames, data["second_per_grid_ts"].data)[-1]) + 1, height, width)

    def times(self, frames: int, seconds: torch.Tensor) -> torch.Tensor:
        """(T,) temporal positions of frames that are so many seconds apart."""
        return (torch.arange(frames) * (self.config.vision_config.tokens_per_second * seconds.cpu())).long()


class ReducedFrames(ReducedVideos):
    """Videos with a timestamp and marks around every frame (Qwen3-VL, Qwen3.5)."""

    def run(self, rows: torch.Tensor, places: torch.Tensor, video_input: Any, number: int) -> torch.Tensor:
        frames, height, width = grid = video_input["video_grid_thw"][number].tolist()
        per_frame = height * width // self.visual.spatial_merge_size**2
        return self._create_final_video_embeddings(
            video_embeddings=rows,
            num_tokens_per_frame=(places // per_frame).bincount(minlength=frames).tolist(),
            timestamps=video_input["timestamps"][number],
            video_grid_thw=grid,
            retention_mask=places,
        )

    def advance(self, grid: tuple[int, int, int], data: Mapping[str, Any]) -> int:
        return grid[0] * max(grid[1:])

    def _get_expanded_positions(
        self, *, video_grid_thw: list[int], is_video_embed: torch.Tensor, is_vision_start: torch.Tensor, **given: Any
    ) -> torch.Tensor:
        """(n, 12) of each row of a run, as `behind` gives it.

        A kept token has the positions that it had in the whole video, and so has all that stands around it: every text
        token before it counts one, every frame its longer side.
        """
        merge, places = self.visual.spatial_merge_size, given["retention_mask"]
        height, width = (side // merge for side in video_grid_thw[1:])
        text = ~is_video_embed
        frames = is_vision_start.cumsum(0) - (is_vision_start | is_video_embed).long()  # before the row
        first = is_vision_start.int().argmax()
        start = text.cumsum(0) - text.long() + frames * max(height, width) - first
        rows, columns = start.clone(), start.clone()
        rows[is_video_embed] += places // width % height
        columns[is_video_embed] += places % width
        return behind(start, rows, columns, first)


@MULTIMODAL_REGISTRY.register_processor(Processor2_5, info=Info2_5, dummy_inputs=Qwen2_5_VLDummyInputsBuilder)
class AOTQwen2_5_VLForConditionalGeneration(ReducedRun, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class AOTQwen3VLForConditionalGeneration(ReducedFrames, Qwen3VLForConditionalGeneration):
    """Qwen3-VL."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class AOTQwen3VLMoeForConditionalGeneration(ReducedFrames, Qwen3VLMoeForConditionalGeneration):
    """Its mixture of experts."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info3_5, dummy_inputs=Qwen3VLDummyInputsBuilder)
class AOTQwen3_5ForConditionalGeneration(ReducedFrames, Qwen3_5ForConditionalGeneration):
    """Qwen3.5, which has no DeepStack."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo3_5, dummy_inputs=Qwen3VLDummyInputsBuilder)
class AOTQwen3_5MoeForConditionalGeneration(ReducedFrames, Qwen3_5MoeForConditionalGeneration):
    """Its mixture of experts."""
