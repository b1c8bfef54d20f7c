"""How many places a video takes in the prompt, for placeholders, dummies and budgets alike."""

from collections.abc import Mapping
from functools import cached_property

from vllm.model_executor.models.llava_onevision import LlavaOnevisionProcessingInfo
from vllm.multimodal.processing import BaseProcessingInfo

from .settings import LlavaSettings, VideoSettings


class SettingsInModelId(BaseProcessingInfo):
    """Puts the settings into the key of every cached video: other settings, other tokens."""

    @cached_property
    def videos(self) -> VideoSettings:
        return VideoSettings.read(self.get_hf_config())

    @property
    def model_id(self) -> str:
        return f"{super().model_id} {self.videos}"


class AOTProcessingInfo(SettingsInModelId, LlavaOnevisionProcessingInfo):
    """Exact token counts of compressed videos."""

    @cached_property
    def videos(self) -> LlavaSettings:
        return LlavaSettings.read(self.get_hf_config())

    def get_num_video_tokens(self, *, image_width: int, image_height: int, num_frames: int) -> int:
        """Tokens of a video of this many frames, whatever their size; AOTError for too many."""
        self.videos.check_frames(num_frames)
        return self.videos.tokens(num_frames)

    def get_num_frames_with_most_features(self, seq_len: int, mm_counts: Mapping[str, int]) -> int:
        """Frames of the longest video that the server is started for, or that fits into the context."""
        return max(1, self.videos.frames_that_fit(seq_len // max(1, mm_counts.get("video", 0))))
