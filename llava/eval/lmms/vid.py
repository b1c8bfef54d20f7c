"""``--model llava_vid_aot``: lmms-eval's llava_vid with the method."""

from accelerate import Accelerator
from lmms_eval.models.simple import llava_vid as stock

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.eval.lmms.arguments import VIDEO, check_family, check_pool, default_pool, read_config, split_arguments
from llava.eval.lmms.build import device_of, exit_on_error, single_device
from llava.eval.lmms.visuals import Visual, VisualError
from llava.eval.lmms.wrapper import AOTWrapperMixin


class LlavaVidAOT(AOTWrapperMixin, stock.LlavaVid):
    """Arguments of the stock wrapper, the method's settings, and

    store, mm_spatial_pool_mode, video_decode_backend: as in `LlavaOneVisionAOT`. max_frames_num: most frames a
    video, by default what the checkpoint was made for, else 64. mm_newline_position: the checkpoint's by default.
    conv_template: qwen_1_5 by default.
    """

    stock_id = "llava_vid"

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        store: str | None = None,
        max_frames_num: int | None = None,
        mm_spatial_pool_mode: str | None = None,
        mm_spatial_pool_stride: int = 2,
        mm_newline_position: str | None = None,
        conv_template: str = "qwen_1_5",
        video_decode_backend: str = "auto",
        **arguments,
    ):
        with exit_on_error():
            config, rest = split_arguments(arguments)
            made = read_config(pretrained)
            pool = mm_spatial_pool_mode or default_pool(made)
            check_family(pretrained, made, VIDEO)
            check_pool(made, pool, mm_spatial_pool_stride)
            accelerator = Accelerator()
            place = device_of(accelerator.local_process_index, device)
            with single_device(stock, accelerator, place) as placing:
                super().__init__(
                    pretrained=pretrained,
                    max_frames_num=max_frames_num or made.get("mm_video_frames") or 64,
                    mm_spatial_pool_mode=pool,
                    mm_newline_position=mm_newline_position or made.get("mm_newline_position") or "grid",
                    conv_template=conv_template,
                    **{**rest, **placing},
                )
            self.prepare(
                accelerator,
                config=config,
                store=store,
                decoder=video_decode_backend,
                fps=self.fps,
                force_sample=self.force_sample,
                times=self.add_time_instruction,
            )

    @property
    def sampling(self) -> dict:
        """How the frames of a video are chosen."""
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
