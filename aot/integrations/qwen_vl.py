"""transformers' Qwen-VL models: three planes of positions, of which a kept token keeps its own, and DeepStack."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import AOTError
from . import hf_generate
from .hf_base import Family, Step
from .hf_generate import EncodedVideo
from .pruned_prompt import positions
from .qwen_patch_reuse import reuse_blocks
from .qwen_tower import TowerReader
from .vision_outputs import capturing, watch_attention


class QwenVL(Family):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 and the mixtures of experts."""

    names = (
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    )
    reuses = True

    def check(self, model: Any, needs: Sequence[str]) -> None:
        TowerReader(model.model.visual, needs)

    def watch(self, model: Any) -> list:
        tower = model.model.visual
        return [*watch_attention([block.attn for block in tower.blocks]), *reuse_blocks(tower)]

    def encode(self, inner: Any, original: Any, args: tuple, kwargs: dict, needs: Sequence[str]) -> tuple[Any, list]:
        thw = inspect.signature(original).bind(inner, *args, **kwargs).arguments["video_grid_thw"]
        reader = TowerReader(inner.visual, needs)
        with capturing(reader.names) as captured:
            result = original(inner, *args, **kwargs)
        outputs = reader.read(captured, thw)
        features, levels = getattr(result, "pooler_output", result), getattr(result, "deepstack_features", None) or ()
        if isinstance(features[0], tuple):  # transformers 4 with DeepStack, whose levels hold all videos
            features, levels = features
            levels = [level.split([len(part) for part in features]) for level in levels]
        merge, grids = inner.visual.spatial_merge_size, thw.tolist()
        return result, [
            EncodedVideo(
                features[v].unflatten(0, (t, -1)),
                outputs[v],
                (h // merge, w // merge),
                levels=tuple(level[v] for level in levels),
            )
            for v, (t, h, w) in enumerate(grids)
        ]

    def position_ids(self, step: Step, kwargs: dict) -> tuple[torch.Tensor, bool]:
        given, call, past = kwargs.get("position_ids"), hf_generate.generate_call.get(), step.past
        reads_prompt = call is not None and call.start == 0 and step.past_length < call.ids.shape[1]
        first = past.following is None or reads_prompt
        if given is not None and given.dim() == 3 and len(given) == 4:  # those of text are in front
            hf_generate.check_positions(given[0], kwargs, step.past_length, step.mask)
        if first and given is not None:
            given = given if given.dim() == 3 else given.unsqueeze(0)
            return given[-3:, :, -step.ids.shape[1] :].expand(3, len(step.ids), -1), True
        if first and step.cache_mask.shape[1]:
            raise AOTError("A video came behind a prompt without one; give the whole conversation, without a cache.")
        seen = (step.model.config.image_token_id, step.model.config.video_token_id)
        vision = step.ids.shape[1] > 1 and any(bool((step.ids == token).any()) for token in seen)
        if vision or first:
            position_ids = _rope_index(step, kwargs)
        else:
            position_ids = positions(step.mask, step.mask.shape[1]).expand(3, -1, -1)
        if not first:  # the prompt's end, and what entered the cache since, or was cut from it
            since = step.cache_mask.sum(1, keepdim=True) - past.attention_mask.sum(1, keepdim=True)
            position_ids = position_ids + past.following + since
        return position_ids, vision or first

    def cannot_repeat(self, model: Any, ids: torch.Tensor, inputs: dict) -> bool:
        """Qwen3-VL takes every frame for a video."""
        return self.base(model).__name__.startswith("Qwen3VL") and inputs.get("pixel_values_videos") is not None


FAMILY = QwenVL()


def _rope_index(step: Step, kwargs: dict) -> torch.Tensor:
    """(3, B, n) the model's own positions of the step's places, from 0 on."""
    ids, encoded, config, inner = step.ids, step.encoded, step.model.config, step.model.model
    grids = {name: kwargs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    if grids["image_grid_thw"] is None and bool((ids == config.image_token_id).any()):
        raise AOTError(
            "An image in a later turn came without image_grid_thw; give the whole conversation, without a cache."
        )
    if encoded is not None and grids["video_grid_thw"] is None:  # generate has taken it out
        merge = inner.visual.spatial_merge_size
        videos = [encoded.videos[v] for row in step.rows() for v in row]
        thw = [[len(v.features), v.grid[0] * merge, v.grid[1] * merge] for v in videos]
        grids["video_grid_thw"] = torch.tensor(thw, device=ids.device)
    types = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
    parameters = inspect.signature(inner.get_rope_index).parameters
    call = {**grids, "attention_mask": step.mask, "mm_token_type_ids": types}
    taken = {name: value for name, value in call.items() if name in parameters}
    position_ids, inner.rope_deltas = inner.get_rope_index(ids, **taken)
    return position_ids
