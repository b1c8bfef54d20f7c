"""Configuration of the SigLIP + Qwen2 model, and what its fields mean: each is obeyed or refused.

Kept apart from the model so that importing it stays cheap.
"""

import math
from collections.abc import Mapping

from transformers import SiglipVisionConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from aot import AOTConfig
from llava.model.loading import CheckpointError


class LlavaQwenConfig(Qwen2Config):
    """Qwen2's settings plus the multimodal ones of the checkpoint (``mm_*``, ``image_*``, ``tokenizer_*``).

    Fields that this project adds:

    ``mm_vision_config``: geometry of the tower as a dict of SiglipVisionConfig fields, where
    ``num_hidden_layers`` counts the layers in the checkpoint (the dropped last layer left out); absent means
    so400m-patch14-384. ``aot``: the token reduction, an AOTConfig or None for none; read at every call. It may be
    assigned as a mapping too, which is validated then (AOTError), and is a dict in config.json.
    """

    model_type = "llava_qwen"

    # Defaults of fields that callers read before any checkpoint has set them.
    mm_vision_config = None
    mm_use_im_start_end = False
    mm_use_im_patch_token = False

    @property
    def aot(self) -> AOTConfig | None:
        return self.__dict__.get("aot")

    @aot.setter
    def aot(self, value: AOTConfig | Mapping | None) -> None:
        parsed = value is None or isinstance(value, AOTConfig)
        self.__dict__["aot"] = value if parsed else AOTConfig.from_dict(value)

    def to_dict(self) -> dict:
        """As in transformers, with the rotary base also under the name that transformers 4 reads."""
        settings = super().to_dict()
        if self.aot is not None:
            settings["aot"] = self.aot.to_dict()
        theta = (settings.get("rope_parameters") or {}).get("rope_theta")
        return settings if theta is None else {**settings, "rope_theta": theta}


# most that a size may be: beyond every published model, and small enough to be counted through
LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1000,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**12,
    "max_position_embeddings": 2**31,
    "mm_hidden_size": 2**17,
    "mm_video_frames": 2**17,
    "image_size": 2**14,
    "patch_size": 2**14,
}
OPTIONAL = {"num_key_value_heads", "head_dim", "mm_hidden_size", "mm_video_frames"}  # these may be null
TAKEN = {
    "mm_spatial_pool_mode": ("bilinear", "average", "max"),
    "mm_newline_position": ("one_token", "grid", "frame", "no_token"),
    "mm_patch_merge_type": ("flat", "spatial", "spatial_unpad"),
    "mm_vision_select_feature": ("patch",),  # SigLIP has no class token
    "mm_resampler_type": (),
    "mm_use_im_start_end": (False,),  # prompts here hold no marks around an image
    "add_faster_video": (False,),
    "s2": (False,),  # a tower at several scales
    "tokenizer_padding_side": ("right", "left"),
}


def check_sizes(settings: Mapping) -> None:
    """CheckpointError for a size of the model or of ``mm_vision_config`` that is no number or that none can have."""
    tower = settings.get("mm_vision_config")
    if tower is not None and not isinstance(tower, Mapping):
        raise CheckpointError(f"mm_vision_config in config.json is {tower!r}; it must hold the tower's sizes by name.")
    for place, fields in (("", settings), ("mm_vision_config.", tower or {})):
        for name in LARGEST.keys() & fields.keys():
            size = fields[name]
            if size is None and not place and name in OPTIONAL:
                continue
            if type(size) is not int or not 1 <= size <= LARGEST[name]:
                raise CheckpointError(
                    f"{place}{name} in config.json is {str(size)[:40]}; it must be a whole number from 1 to "
                    f"{LARGEST[name]}."
                )


def check_fields(config) -> None:
    """CheckpointError for a field with a value that this model would not obey."""
    for name, taken in TAKEN.items():
        value = getattr(config, name, None)
        if value is not None and value not in taken:
            use = f"use {' or '.join(map(repr, taken))}" if taken else "only checkpoints without one are loaded"
            raise CheckpointError(f"{name} in config.json is {value!r}, which this model does not know; {use}.")
    pool_of(config)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if heads % groups:
        raise CheckpointError(
            f"num_attention_heads {heads} in config.json is no multiple of num_key_value_heads {groups}; correct it."
        )


def pool_of(config) -> str:
    """The pooling of a video's tokens as `aot.pool_tokens` names it, by the fields as they are now.

    ``mm_spatial_pool_stride`` is obeyed; LLaVA-NeXT's own code pools by 2 whatever it says. Raises CheckpointError for
    a stride that is no whole number from 1.
    """
    mode = getattr(config, "mm_spatial_pool_mode", None) or "bilinear"
    stride = getattr(config, "mm_spatial_pool_stride", None)
    if stride in (None, 2):
        return mode
    if type(stride) is not int or stride < 1:
        raise CheckpointError(f"mm_spatial_pool_stride in config.json is {stride!r}; it must be a whole number from 1.")
    return f"{mode}/{stride}"


def layers_in_use(config, stored: int) -> int:
    """Layers of the tower that run, by ``mm_vision_select_layer``, of the ``stored`` ones.

    The field is an index of hidden states: n is the output of n layers, and -1 that of the whole tower, whose last
    layer LLaVA-NeXT drops. So -2 is the output of the stored ones; -1, the default of its trainer, means the same
    there. Raises CheckpointError for a layer that is not stored.
    """
    index = getattr(config, "mm_vision_select_layer", None)
    if index in (None, -1, -2):
        return stored
    used = math.nan if type(index) is not int else index if index >= 0 else stored + 2 + index
    if not 1 <= used <= stored:
        raise CheckpointError(
            f"mm_vision_select_layer in config.json is {index!r}; of {stored} stored layers use -2 for the last, or "
            f"down to {-1 - stored} for an earlier one."
        )
    return used


# so400m-patch14-384 has 27 layers; checkpoints hold the first 26.
SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
SO400M_NAME = "google/siglip-so400m-patch14-384"


def tower_config(config) -> SiglipVisionConfig:
    """Geometry of the tower: ``config.mm_vision_config`` when set, else so400m-patch14-384.

    ``num_hidden_layers`` counts the layers in use, which `layers_in_use` says. Raises CheckpointError for a tower that
    is no SigLIP so400m-384 by its name when no geometry is given, or whose width is not that of the projector.
    """
    geometry = getattr(config, "mm_vision_config", None)
    name = getattr(config, "mm_vision_tower", None)
    if geometry is None and SO400M_NAME.split("/")[1] not in str(name):
        raise CheckpointError(
            f"The vision tower {name!r} is not supported; use a checkpoint with siglip-so400m-patch14-384, "
            "or state the SigLIP geometry as mm_vision_config in config.json."
        )
    sizes = {**SO400M_384, **(geometry or {})}
    sizes["num_hidden_layers"] = layers_in_use(config, sizes["num_hidden_layers"])
    vision = SiglipVisionConfig(**sizes)
    width = getattr(config, "mm_hidden_size", None)
    if width is not None and width != vision.hidden_size:
        raise CheckpointError(
            f"mm_hidden_size in config.json is {width} and the vision tower is {vision.hidden_size} wide; correct it."
        )
    vision._attn_implementation = "sdpa"
    return vision


def unused_layers(config) -> list[str]:
    """Patterns of the weights behind the last layer in use; where no geometry is stated all 27 may be stored."""
    geometry = getattr(config, "mm_vision_config", None)
    stored = SO400M_384["num_hidden_layers"] + 1 if geometry is None else geometry["num_hidden_layers"]
    used = tower_config(config).num_hidden_layers
    return [rf"vision_tower\.vision_model\.encoder\.layers\.{i}\." for i in range(used, stored)]
