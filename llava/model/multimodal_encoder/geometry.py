"""Geometry of the vision tower: as config.json states it, or as the weights show it."""

from collections.abc import Mapping
from pathlib import Path

from transformers import SiglipVisionConfig

from llava.model.fields import check_sizes, layers_in_use
from llava.model.folder import Stored
from llava.model.loading import CheckpointError, layer_count, read_json

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
PREFIX = "model.vision_tower.vision_tower.vision_model."


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


def name_tower(config, stored: Mapping[str, Stored]) -> None:
    """Where config.json has no geometry, the ``stored`` weights tell it: ``mm_vision_tower`` may be any path.

    The shapes of so400m-patch14-384 are that tower. For others the config.json in the folder of that name is read,
    where there is one. A tower that neither shows is left to its name.
    """
    folder = str(getattr(config, "mm_vision_tower", None) or "")
    if config.mm_vision_config is not None:
        return
    if _is_so400m(stored):
        config.mm_vision_tower = SO400M_NAME
    elif folder and Path(folder, "config.json").is_file():
        geometry = _geometry(Path(folder, "config.json"))
        if geometry is not None:
            config.mm_vision_config = geometry | {"num_hidden_layers": layer_count(stored, PREFIX + "encoder.layers.")}


def _is_so400m(stored: Mapping[str, Stored]) -> bool:
    width, patch = SO400M_384["hidden_size"], SO400M_384["patch_size"]
    shapes = {
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": ((SO400M_384["image_size"] // patch) ** 2, width),
        "encoder.layers.0.mlp.fc1.weight": (SO400M_384["intermediate_size"], width),
    }
    return all(PREFIX + key in stored and stored[PREFIX + key].shape == shape for key, shape in shapes.items())


def _geometry(file: Path) -> dict | None:
    """Sizes in the config.json of a SigLIP tower, whole or its vision side alone; None for any other model."""
    settings = read_json(file)
    if settings.get("model_type") not in ("siglip", "siglip_vision_model"):
        return None
    given = settings.get("vision_config", settings)
    check_sizes({"mm_vision_config": given})
    whole = SiglipVisionConfig(**{name: given[name] for name in SO400M_384 if name in given}).to_dict()
    return {name: whole[name] for name in SO400M_384}
