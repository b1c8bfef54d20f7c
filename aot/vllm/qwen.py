"""vLLM's Qwen3-VL with `aot.compress` where vLLM has its own pruning of videos.

In the prompt all tokens of a video stand in its first frame, as it is not known yet which frame keeps how many. The
encoder then gives the whole run of a video: timestamps, marks of frames and the kept tokens between them, each row with
its positions behind it, which are put into the prompt when the row is read. All other positions are known in advance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed import tensor_model_parallel_all_reduce
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

from ..integrations.qwen_tower import TowerReader, watch_blocks
from ..integrations.qwen_vl import FAMILY
from ..integrations.steps import EncodedVideo
from ..integrations.vision_outputs import capturing
from .processing import SettingsInModelId
from .settings import VideoSettings

BASES = (2**16, 2**8, 1)  # every dtype of features holds the whole numbers up to 256


class Info(SettingsInModelId, Qwen3VLProcessingInfo):
    """The most places that a video takes."""

    def get_max_video_tokens(self, seq_len: int, mm_counts: Mapping[str, int]) -> int:
        """The tokens of a video of most pixels, and the timestamps and marks of as many frames as it may have."""
        most = self.videos.token_count(1, super().get_max_video_tokens(seq_len, mm_counts))
        marks = len(self.get_tokenizer().encode("<99999.9 seconds>", add_special_tokens=False)) + 2
        step = self.get_hf_config().vision_config.temporal_patch_size
        return most + marks * -(-self.videos.frames // step)


class MoeInfo(Info, Qwen3VLMoeProcessingInfo):
    """The same of a mixture of experts."""


class Processor(Qwen3VLMultiModalProcessor):
    """Places for exactly the tokens that are kept of a video."""

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, Any],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        vision = config.vision_config

        def places(number: int) -> PromptUpdateDetails:
            item = out_mm_kwargs["video"][number]
            frames, height, width = item["video_grid_thw"].data.tolist()
            self.info.videos.check_frames(frames * vision.temporal_patch_size)
            tokens = self.info.videos.token_count(frames, height * width // vision.spatial_merge_size**2)
            return self.get_video_repl(
                tokens_per_frame=[tokens] + [0] * (frames - 1),
                timestamps=item["timestamps"].data,
                tokenizer=self.info.get_tokenizer(),
                vision_start_token_id=config.vision_start_token_id,
                vision_end_token_id=config.vision_end_token_id,
                video_token_id=config.video_token_id,
            )

        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [replace(update, replacement=places) if update.modality == "video" else update for update in updates]


class Reader(TowerReader):
    """What methods read from vLLM's tower, where every rank has its share of the heads."""

    def __init__(self, tower: Any, needs: Sequence[str]):
        super().__init__(tower, needs)
        watch_blocks(tower)

    def read(self, captured: Mapping[str, Any], thw: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        videos = super().read(captured, thw)
        ranks = self.tower.blocks[0].attn.tp_size
        if ranks > 1:
            for video in videos:
                for name, value in video.items():
                    video[name] = tensor_model_parallel_all_reduce(value.contiguous()) / ranks
        return videos

    def _heads(self, attention: Any, given: Any, *, rotated: bool) -> tuple[torch.Tensor, torch.Tensor]:
        (hidden,), call = given  # (n, 1, D)
        heads = attention.num_attention_heads_per_partition
        both = attention.qkv(hidden)[0][:, 0].unflatten(-1, (3, heads, -1))[:, :2].transpose(0, 1).contiguous()
        if rotated:
            both = attention.apply_rotary_emb(both, call["rotary_pos_emb_cos"], call["rotary_pos_emb_sin"])
        return both[0], both[1]


class ReducedVideos(Qwen3VLForConditionalGeneration):
    """Videos are encoded and compressed one by one; images go their usual way."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "model") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.videos = VideoSettings.read(self.config)
        if not isinstance(self.visual, StageMissingLayer):  # a server without videos and pictures has no tower
            self.reader = Reader(self.visual, self.videos.config.requires)

    def _process_video_input(self, video_input: Any) -> tuple[torch.Tensor, ...]:
        """Of each video its run in the prompt, (n, D · (1 + levels) + 12): embedding, DeepStack rows and positions."""
        thw = video_input["video_grid_thw"]
        with capturing(self.reader.names) as captured:
            encoded = super()._process_video_input(video_input)  # (T·P, D · (1 + levels)) each
        outputs = self.reader.read(captured, thw)
        calls = zip(encoded, outputs, thw.tolist(), video_input["timestamps"], strict=True)
        return tuple(self._run(*call) for call in calls)

    def _run(
        self, encoded: torch.Tensor, outputs: dict[str, torch.Tensor], thw: list[int], timestamps: list[float]
    ) -> torch.Tensor:
        """The run of one video."""
        frames, merge = thw[0], self.visual.spatial_merge_size
        features, *levels = encoded.split(self.visual_dim, dim=-1)
        video = EncodedVideo(
            features.unflatten(0, (frames, -1)), outputs, (thw[1] // merge, thw[2] // merge), levels=tuple(levels)
        )
        kept = FAMILY.kept(self, video, self.videos.config)
        places, order = FAMILY.own(kept.video).sort(stable=True)
        return self._create_final_video_embeddings(
            video_embeddings=torch.cat([kept.video.tokens, *kept.levels], dim=-1)[order],
            num_tokens_per_frame=kept.video.frame.bincount(minlength=frames).tolist(),
            timestamps=timestamps,
            video_grid_thw=thw,
            retention_mask=places,
        )

    def _postprocess_video_embeds_evs(self, embeds: tuple[torch.Tensor, ...], _: Any) -> tuple[torch.Tensor, ...]:
        return embeds

    def _postprocess_image_embeds_evs(self, embeds: tuple[torch.Tensor, ...], _: Any) -> tuple[torch.Tensor, ...]:
        return embeds  # positions of images are known

    def _get_expanded_positions(
        self, *, video_grid_thw: list[int], is_video_embed: torch.Tensor, is_vision_start: torch.Tensor, **given: Any
    ) -> torch.Tensor:
        """(n, 12) of each row of a run: how far its three positions, and it itself, are behind the first frame's mark.

        A kept token has the positions that it had in the whole video, and so has all that stands around it: every text
        token before it counts one, every frame its longer side.
        """
        merge, places = self.visual.spatial_merge_size, given["retention_mask"]
        height, width = (side // merge for side in video_grid_thw[1:])
        text = ~is_video_embed
        frames = is_vision_start.cumsum(0) - (is_vision_start | is_video_embed).long()  # before the row
        first = is_vision_start.int().argmax()
        start = text.cumsum(0) - text.long() + frames * max(height, width) - first
        rows, columns = torch.zeros_like(start), torch.zeros_like(start)
        rows[is_video_embed], columns[is_video_embed] = places % (height * width) // width, places % width
        itself = torch.arange(len(start), device=start.device) - first
        numbers = torch.stack([start, start + rows, start + columns, itself], dim=-1)
        digits = [numbers // BASES[0], numbers // BASES[1] % 256, numbers % 256]
        return torch.cat(digits, dim=-1)

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
                span = length - tokens + frames * max(height, width)
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
        width = self.visual_dim + self.multiscale_dim
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


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class AOTQwen3VLForConditionalGeneration(ReducedVideos):
    """Qwen3-VL."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class AOTQwen3VLMoeForConditionalGeneration(ReducedVideos, Qwen3VLMoeForConditionalGeneration):
    """Its mixture of experts."""
