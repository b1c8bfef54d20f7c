"""``--model llava_onevision_aot``: lmms-eval's llava_onevision with the method."""

from lmms_eval.models.simple import llava_onevision

from llava.eval.lmms.arguments import ONEVISION
from llava.eval.lmms.visuals import Visual
from llava.eval.lmms.wrapper import AOTWrapperMixin


class LlavaOneVisionAOT(AOTWrapperMixin, llava_onevision.Llava_OneVision):
    """Arguments: those of `AOTWrapperMixin`."""

    stock, stock_id, family, frames = llava_onevision, "llava_onevision", ONEVISION, 32

    @property
    def effective(self) -> dict:
        return {"strategy": self.token_strategy}

    @property
    def sampling(self) -> dict:
        return {"num_frames": self.max_frames_num}

    def stock_sees_all(self, visuals: list[Visual], prompt: str) -> bool:
        """It does for images alone and for one video; of several videos it sees the first."""
        return len(visuals) <= 1 or not any(isinstance(visual, str) for visual in visuals)

    def load_video(self, video_path, max_frames_num):
        path = video_path if isinstance(video_path, str) else video_path[0]
        return self.read(path, num_frames=max_frames_num).frames
