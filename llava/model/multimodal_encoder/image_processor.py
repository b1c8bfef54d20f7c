"""Pixels for the SigLIP tower, with PIL alone."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


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
