"""``--model llava_onevision_aot`` and ``llava_vid_aot``: lmms-eval's LLaVA wrappers with the method."""

from lmms_eval.models.simple import llava_onevision, llava_vid

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.lmms.arguments import ONEVISION, VIDEO
from llava.eval.lmms.visuals import Visual, VisualError
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


class LlavaVidAOT(AOTWrapperMixin, llava_vid.LlavaVid):
    """Arguments: those of `AOTWrapperMixin`; mm_newline_position is the checkpoint's by default, conv_template
    qwen_1_5, and max_frames_num the most frames a video.
    """

    stock, stock_id, family, frames = llava_vid, "llava_vid", VIDEO, 64

    def defaults(self, made) -> dict:
        return {"mm_newline_position": made.get("mm_newline_position") or "grid", "conv_template": "qwen_1_5"}

    @property
    def effective(self) -> dict:
        return {"fps": self.fps, "force_sample": self.force_sample, "times": self.add_time_instruction}

    @property
    def sampling(self) -> dict:
        return {"num_frames": self.max_frames_num, "fps": self.fps, "force_sample": self.force_sample}

    def stock_sees_all(self, visuals: list[Visual], prompt: str) -> bool:
        """It does for one video, before which it puts the mark, so the prompt must not have one of its own."""
        if not visuals:
            raise VisualError("The question shows nothing, and this wrapper answers questions about videos only.")
        alone = len(visuals) == 1 and isinstance(visuals[0], str) and DEFAULT_IMAGE_TOKEN not in prompt
        if not alone and self.add_time_instruction:
            raise VisualError("add_time_instruction speaks of one video, and this question shows something else.")
        return alone

    def load_video(self, video_path, max_frames_num, fps, force_sample=False):
        """(frames, their times as text, seconds of the video)."""
        video = self.read(video_path, num_frames=max_frames_num, fps=fps, force_sample=force_sample)
        return video.frames, ",".join(f"{time:.2f}s" for time in video.times), video.duration
