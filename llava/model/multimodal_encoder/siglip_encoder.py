"""SigLIP vision tower without its last layer, on transformers' own modules under the published names."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

from aot.patch_reuse import KEY_EVERY, patches_of, plan_reuse
from llava.model.language_model.configuration_llava_qwen import tower_config, unused_layers
from llava.model.multimodal_encoder.modes import Replay, check_mode
from llava.model.multimodal_encoder.tower_layers import layer_with_outputs, reusing_layers


class SigLipImageProcessor:
    """RGB, bicubic stretch to ``size``, ×1/255, (x - mean) / std, channels first; equal to upstream's to the
    bit.

    ``size`` is (height, width); ``crop_size``, ``image_mean`` and the other fields are there for callers.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        size: tuple[int, int] = (384, 384),
        crop_size: dict[str, int] | None = None,
        resample: int = Image.Resampling.BICUBIC,
        rescale_factor: float = 1 / 255,
    ):
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.size = tuple(size)
        self.crop_size = crop_size or {"height": self.size[0], "width": self.size[1]}
        self.resample = resample
        self.rescale_factor = rescale_factor
        # 256 values per channel are all there are: a table (3, 256), float64 product, float32 after
        scaled = (np.arange(256) * rescale_factor).astype(np.float32)
        mean, std = (np.asarray(v, dtype=np.float32)[:, None] for v in (self.image_mean, self.image_std))
        self._table = (scaled - mean) / std
        self._tables: dict[torch.device, torch.Tensor] = {}

    def preprocess(self, images, return_tensors: str | None = "pt"):
        """Pixels of one image or several: PIL images, or (H, W, 3) / (T, H, W, 3) uint8 arrays.

        Returns a BatchFeature whose ``pixel_values`` is (T, 3, height, width) float32, a tensor for
        ``return_tensors="pt"``, else an array. ValueError for anything that is no image.
        """
        from transformers.feature_extraction_utils import BatchFeature  # loads slowly; few callers come here

        if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        pixels = self.normalise(self.resize(images))
        return BatchFeature({"pixel_values": pixels if return_tensors == "pt" else pixels.numpy()})

    __call__ = preprocess

    def resize(self, images) -> torch.Tensor:
        """(T, 3, height, width) uint8 of PIL images or (H, W, 3) uint8 arrays, a quarter of what `preprocess` gives.

        The tower takes them and calls `normalise` on its own device. ValueError for anything that is no image.
        """
        return torch.from_numpy(np.stack([self._resized(image).transpose(2, 0, 1) for image in images]))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(T, 3, height, width) uint8 on any device -> float32, equal to `preprocess` to the bit."""
        if pixels.device not in self._tables:  # sent once: a copy to a GPU waits for what it does
            self._tables[pixels.device] = torch.from_numpy(self._table).to(pixels.device)
        table = self._tables[pixels.device]
        return torch.stack([table[channel][pixels[:, channel].int()] for channel in range(3)], dim=1)

    def _resized(self, image) -> np.ndarray:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"An image array must be (height, width, 3) uint8; got {image.shape} {image.dtype}.")
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise ValueError(f"An image must be a PIL image or a uint8 array; got {type(image).__name__}.")
        height, width = self.size
        return np.asarray(image.convert("RGB").resize((width, height), self.resample))


FRAMES_PER_PASS = 64  # at most, whatever the memory
PASS_MEMORY = 2**30  # bytes of activations that a pass may hold, unless the tower is told otherwise


@dataclass
class TowerOutput:
    """features: (F, N, width) before post_layernorm. By layer: received (F, N), keys (F, N, d).

    patches: how many went through the layers, F·N unless features were reused.
    """

    features: torch.Tensor
    received: dict[int, torch.Tensor] = field(default_factory=dict)
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    patches: int = 0


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """The parts (F, ...) as one; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _VisionTransformer(nn.Module):
    def __init__(self, config: SiglipVisionConfig):
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        # A non-persistent buffer, which loading through the meta device would leave unset; the forward pass
        # below adds the position table as it is.
        del self.embeddings.position_ids
        self.encoder = SiglipEncoder(config)
        # Stored in checkpoints, not used: features are taken before it.
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _VisionModel(nn.Module):
    def __init__(self, config: SiglipVisionConfig):
        super().__init__()
        self.vision_model = _VisionTransformer(config)


class SigLipVisionTower(nn.Module):
    """pixels (F, 3, S, S) -> features (F, N, width), the last kept layer's output before post_layernorm.

    pass_memory: bytes of activations that one pass may hold; more frames go in several passes. mode: see `set_mode`.
    """

    is_loaded = True

    def __init__(self, config):
        super().__init__()
        self.config = tower_config(config)
        self.unused_keys = unused_layers(config)
        self.image_processor = SigLipImageProcessor(size=(self.config.image_size, self.config.image_size))
        self.vision_tower = _VisionModel(self.config)
        self.pass_memory = PASS_MEMORY
        self.mode, self._layer, self._replay = "eager", _through, None  # changed by set_mode

    def set_mode(self, mode: str) -> None:
        """How layers run from now on, by one of `modes.MODES`, for inference; ValueError where it cannot be had.

        "compile": those without side outputs by torch.compile. "cuda_graphs": all of them as one CUDA graph for each
        number of frames; the weights must stay where they are.
        """
        check_mode(mode, self.device)
        self.mode = mode
        self._layer = torch.compile(_through) if mode == "compile" else _through
        self._replay = Replay(self._layers) if mode == "cuda_graphs" else None

    def forward(self, images: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(images, list):
            return [self.encode(image[None] if image.ndim == 3 else image).features for image in images]
        return self.encode(images).features

    def encode(
        self,
        pixels: torch.Tensor,
        *,
        received: Collection[int] = (),
        keys: Collection[int] = (),
        reuse: float | None = None,
    ) -> TowerOutput:
        """Features of (F, 3, S, S) pixels, normalised or uint8, with side outputs of the layers named by 0-based index.

        Layers that are not named run plain fused attention. reuse: patches whose pixels changed by no more since a key
        frame keep its features, see `aot.patch_reuse.plan_reuse`; layers then run in eager mode. 0 and None: every
        patch is computed. Raises ValueError for pixels of another shape.
        """
        self.check_pixels(pixels)
        one_pass = partial(self._reusing_pass, bound=reuse) if reuse else self._one_pass
        passes = [one_pass(part, received, keys) for part in pixels.split(self.pass_length(reuse))]
        return TowerOutput(
            features=joined([p.features for p in passes]),
            received={i: joined([p.received[i] for p in passes]) for i in received},
            keys={i: joined([p.keys[i] for p in passes]) for i in keys},
            patches=sum(p.patches for p in passes),
        )

    @property
    def frames_per_pass(self) -> int:
        """Frames whose activations fit `pass_memory`: the input, the output and the inside of one layer."""
        width, inner = self.config.hidden_size, self.config.intermediate_size
        per_frame = self.num_patches * (6 * width + 2 * inner) * self.dtype.itemsize
        return max(1, min(FRAMES_PER_PASS, self.pass_memory // per_frame))

    def pass_length(self, reuse: float | None) -> int:
        """Frames of a pass; one that reuses features begins where a key frame is due, if the memory is enough."""
        most = self.frames_per_pass
        return most - most % KEY_EVERY if reuse and most > KEY_EVERY else most

    def flops(self, frames: int, patches: int) -> int:
        """Counted floating-point operations of embedding so many frames and taking so many patches through the layers.

        Products alone, two operations a multiplication; norms and side outputs are left out.
        """
        width, inner = self.config.hidden_size, self.config.intermediate_size
        layer = 4 * width**2 + 2 * width * inner + 2 * self.num_patches * width  # projections, MLP, attention
        embedding = frames * self.num_patches * 3 * self.config.patch_size**2 * width
        return 2 * (embedding + patches * self.num_layers * layer)

    def check_pixels(self, pixels: torch.Tensor) -> None:
        """ValueError unless these are (F, 3, S, S) pixels of at least one frame in the tower's size S."""
        size = self.config.image_size
        shape = tuple(pixels.shape) if isinstance(pixels, torch.Tensor) else type(pixels).__name__
        if not isinstance(pixels, torch.Tensor) or len(shape) != 4 or shape[1:] != (3, size, size) or not shape[0]:
            raise ValueError(
                f"Pixels must be a (frames, 3, {size}, {size}) tensor for this model; got {shape}. "
                "Make them with the model's image_processor."
            )

    def _one_pass(self, pixels: torch.Tensor, received: Collection[int], keys: Collection[int]) -> TowerOutput:
        received, keys = tuple(sorted(received)), tuple(sorted(keys))
        run = self._replay or self._layers
        hidden, *side = run(self._embed(pixels), received, keys)
        return TowerOutput(
            hidden,
            dict(zip(received, side[: len(received)], strict=True)),
            dict(zip(keys, side[len(received) :], strict=True)),
            patches=hidden.shape[0] * hidden.shape[1],
        )

    def _reusing_pass(
        self, pixels: torch.Tensor, received: Collection[int], keys: Collection[int], *, bound: float
    ) -> TowerOutput:
        pixels = pixels.to(self.device)
        std = torch.tensor(self.image_processor.image_std, device=self.device)
        plain = pixels / 255 if pixels.dtype == torch.uint8 else pixels * std[:, None, None]  # up to a constant
        plan = plan_reuse(patches_of(plain, self.config.patch_size), bound, (self.num_patches_per_side,) * 2)
        layers = self.vision_tower.vision_model.encoder.layers
        features, received, keys = reusing_layers(layers, self._embed(pixels), plan, received, keys)
        return TowerOutput(features, received, keys, plan.patches(self.num_patches))

    def _layers(self, hidden: torch.Tensor, received: tuple[int, ...], keys: tuple[int, ...]) -> list[torch.Tensor]:
        """The output of the last layer, then received attention and keys of the layers named."""
        attention_of, keys_of = {}, {}
        for i, layer in enumerate(self.vision_tower.vision_model.encoder.layers):
            if i in received or i in keys:
                hidden, attention_of[i], keys_of[i] = layer_with_outputs(layer, hidden, received=i in received)
            else:
                hidden = self._layer(layer, hidden)
        return [hidden, *(attention_of[i] for i in received), *(keys_of[i] for i in keys)]

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        embeddings = self.vision_tower.vision_model.embeddings
        pixels = pixels.to(self.device)
        if pixels.dtype == torch.uint8:
            pixels = self.image_processor.normalise(pixels)
        patches = embeddings.patch_embedding(pixels.to(self.dtype))
        return patches.flatten(2).transpose(1, 2) + embeddings.position_embedding.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_tower.vision_model.embeddings.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.vision_tower.vision_model.embeddings.patch_embedding.weight.device

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def num_patches_per_side(self) -> int:
        return self.config.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        return self.num_patches_per_side**2


def _through(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """One layer's output, (F, N, width) as its input."""
    output = layer(hidden, None)
    return output[0] if isinstance(output, tuple) else output  # transformers 4 wraps it
