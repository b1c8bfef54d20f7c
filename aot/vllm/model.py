"""vLLM's LLaVA-OneVision with `aot.compress` between projector and language model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
)
from vllm.model_executor.models.siglip import SiglipVisionModel
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..compress import compress
from .capture import Capture
from .processing import AOTProcessingInfo
from .settings import LlavaSettings


@MULTIMODAL_REGISTRY.register_processor(
    LlavaOnevisionMultiModalProcessor, info=AOTProcessingInfo, dummy_inputs=LlavaOnevisionDummyInputsBuilder
)
class AOTLlavaOnevisionForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """Videos are encoded together and compressed one by one; images go their usual way."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.videos = LlavaSettings.read(self.config)
        if isinstance(self.vision_tower, SiglipVisionModel):  # a server without videos and pictures loads none
            self.capture = Capture(self.vision_tower, self.videos.config.requires, self.videos.layers)

    def _process_video_pixels(self, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Tokens (S, D) of each video; pixels: (videos, F, 3, S, S), or a list of (F, 3, S, S)."""
        pixels: Sequence[torch.Tensor] = list(inputs["pixel_values_videos"])
        with self.capture.reading() as outputs:
            features = self._image_pixels_to_features(self.vision_tower, torch.cat(pixels))
        features = self.multi_modal_projector(features)
        tokens, first = [], 0
        for video in pixels:
            part = slice(first, first := first + len(video))
            compressed = compress(
                features[part],  # (F, N, D)
                config=self.videos.config,
                pool=self.videos.pool,
                newline=self.image_newline,
                newline_position=self.videos.newline_position,
                grid=self.videos.grid,
                extras={name: value[part] for name, value in outputs.items()},
            )
            tokens.append(compressed.tokens)
        return tokens
