"""Where the model meets the method: live settings, what the tower must capture, and the call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from aot import AOTConfig, CompressedVideo, compress, warm_up
from aot.methods.in_llm import is_in_llm
from aot.ops.received_attention import needed_layers
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower


class TowerFlops(NamedTuple):
    """Floating-point operations of the tower, counted: those spent, and those of encoding every frame whole.

    See `SigLipVisionTower.flops`.
    """

    spent: int
    whole: int

    def __add__(self, other: "TowerFlops") -> "TowerFlops":
        return TowerFlops(self.spent + other.spent, self.whole + other.whole)


@dataclass(frozen=True)
class VideoFeatures:
    """A video after tower and projector, to be asked about as often as wanted.

    features: (F, N, D) projected, before pooling. grid: tower (H, W), H·W = N. shallow, deep: (F, N) float32
    received attention, None when it was not captured. extras: further tower outputs that a method asked for. flops:
    what the tower spent, of a video that was encoded by itself.
    """

    features: torch.Tensor
    grid: tuple[int, int]
    shallow: torch.Tensor | None = None
    deep: torch.Tensor | None = None
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    flops: TowerFlops | None = None

    @property
    def frames(self) -> int:
        return self.features.shape[0]

    @property
    def outputs(self) -> dict[str, torch.Tensor]:
        """The tower's outputs that were captured, by the name under which a method requires them."""
        found = {"shallow": self.shallow, "deep": self.deep, **self.extras}
        return {name: output for name, output in found.items() if output is not None}

    @classmethod
    def of(cls, features: torch.Tensor, grid: tuple[int, int], outputs: Mapping[str, torch.Tensor]) -> "VideoFeatures":
        """From outputs by name; those beside the two importance maps are extras."""
        extras = dict(outputs)
        return cls(features, grid, extras.pop("shallow", None), extras.pop("deep", None), extras)

    def repeated(self, which: Sequence[int]) -> "VideoFeatures":
        """The video whose frames are these of its own, by number."""
        outputs = {name: output[which] for name, output in self.outputs.items()}
        return self.of(self.features[which], self.grid, outputs)

    def split(self, lengths: list[int]) -> list["VideoFeatures"]:
        """Videos that were encoded together, apart again; lengths in frames."""
        features, *outputs = (value.split(lengths) for value in (self.features, *self.outputs.values()))
        rows = zip(features, *outputs, strict=True)
        return [self.of(part, self.grid, dict(zip(self.outputs, row, strict=True))) for part, *row in rows]


@dataclass(frozen=True)
class CapturePlan:
    """Tower layers (0-based) whose side outputs are wanted, by the name under which `compress` takes them.

    reuse: `AOTConfig.tower_reuse`.
    """

    received: dict[str, int]
    keys: dict[str, int]
    reuse: float | None = None


def capture_plan(tower: SigLipVisionTower, config: AOTConfig | None) -> CapturePlan:
    """What the tower must capture for the settings.

    "shallow" and "deep" are received attention of the layers of `aot.layers`, "attention_last" that of the
    last layer, "keys" the attention keys of the last layer, mean over heads. Raises ValueError for a declared
    output that the tower cannot give.
    """
    found = needed_layers(() if config is None else config.requires, tower.num_layers)
    received = {name: layer for name, layer in found.items() if name != "keys"}
    keys = {name: layer for name, layer in found.items() if name == "keys"}
    return CapturePlan(received, keys, None if config is None else config.tower_reuse)


def compress_video(
    video: VideoFeatures,
    config: AOTConfig,
    **arrangement: Any,
) -> CompressedVideo:
    """Compresses one encoded video; ValueError when it was encoded without what the method reads.

    Of a method that acts inside the language model all tokens come back: they enter it. arrangement: pooling, newlines
    and trace, as `aot.compress` takes them.
    """
    missing = [name for name in config.requires if name not in video.outputs]
    if missing:
        raise ValueError(
            f"The video was encoded without {', '.join(missing)}, which method {config.method!r} reads; "
            "encode it again after setting config.aot."
        )
    entering = config.replace(method="uniform", options={}, retention=1.0) if is_in_llm(config) else config
    result = compress(
        video.features,
        video.shallow,
        video.deep,
        entering,
        grid=video.grid,
        extras=video.extras,
        **arrangement,
    )
    return result if entering is config else replace(result, config=config)


def warm_up_kernels(model) -> None:
    """Compiles the kernels of the method for this model, so that no question waits for it; nothing without a GPU."""
    config = model.config.aot
    if config is None or model.device.type != "cuda":
        return
    side = model.get_vision_tower().num_patches_per_side
    pool = getattr(model.config, "mm_spatial_pool_mode", None) or "bilinear"
    size = {"grid": (side, side), "width": model.config.hidden_size, "pool": pool}
    warm_up(config, dtype=next(model.get_model().mm_projector.parameters()).dtype, device=model.device, **size)
