"""``--model llava_onevision_aot``: lmms-eval's llava_onevision with the method."""

from accelerate import Accelerator
from lmms_eval.models.simple import llava_onevision as stock

from llava.eval.lmms.arguments import ONEVISION, check_family, check_pool, default_pool, read_config, split_arguments
from llava.eval.lmms.build import device_of, exit_on_error, single_device
from llava.eval.lmms.visuals import Visual
from llava.eval.lmms.wrapper import AOTWrapperMixin


class LlavaOneVisionAOT(AOTWrapperMixin, stock.Llava_OneVision):
    """Arguments of the stock wrapper, the method's settings, and

    store: folder of the responses; a run that was interrupted goes on from there, and ranks share what is open.
    max_frames_num: frames a video, by default what the checkpoint was made for, else 32. mm_spatial_pool_mode: by
    default the one the checkpoint is evaluated with. video_decode_backend: "auto", "decord" or "pyav".
    """

    stock_id = "llava_onevision"

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        store: str | None = None,
        max_frames_num: int | None = None,
        mm_spatial_pool_mode: str | None = None,
        mm_spatial_pool_stride: int = 2,
        video_decode_backend: str = "auto",
        **arguments,
    ):
        with exit_on_error():
            config, rest = split_arguments(arguments)
            made = read_config(pretrained)
            pool = mm_spatial_pool_mode or default_pool(made)
            check_family(pretrained, made, ONEVISION)
            check_pool(made, pool, mm_spatial_pool_stride)
            accelerator = Accelerator()
            place = device_of(accelerator.local_process_index, device)
            with single_device(stock, accelerator, place) as placing:
                super().__init__(
                    pretrained=pretrained,
                    max_frames_num=max_frames_num or made.get("mm_video_frames") or 32,
                    mm_spatial_pool_mode=pool,
                    **{**rest, **placing},
                )
            self.prepare(
                accelerator,
                config=config,
                store=store,
                decoder=video_decode_backend,
                strategy=self.token_strategy,
            )

    @property
    def sampling(self) -> dict:
        """How the frames of a video are chosen."""
        return {"num_frames": self.max_frames_num}

    def stock_sees_all(self, visuals: list[Visual], prompt: str) -> bool:
        """It does for images alone and for one video; of several videos it sees the first."""
        return len(visuals) <= 1 or not any(isinstance(visual, str) for visual in visuals)

    def load_video(self, video_path, max_frames_num):
        path = video_path if isinstance(video_path, str) else video_path[0]
        return self.read(path, num_frames=max_frames_num).frames
