"""``--model llava_onevision`` and ``llava_vid``: lmms-eval's own code, which ends where it would go on wrongly.

Nothing of what it computes is changed. lmms-eval leaves with exit code 0 after an exception, and llava_vid takes an
error text for a reply when a video cannot be read; here either ends the run with one clear sentence and code 1.
"""

from functools import partial

from lmms_eval.models.simple import llava_onevision, llava_vid

from llava.eval.lmms.arguments import ONEVISION, VIDEO, check_family, check_pool, read_config
from llava.eval.lmms.build import exit_on_error

LIKELIHOOD = "Likelihood tasks are scored wrongly by this wrapper; use tasks that generate an answer."


class _Guarded:
    family: str

    def __init__(self, pretrained: str | None = None, **arguments):
        with exit_on_error():
            self.check(pretrained, arguments)
            super().__init__(pretrained=pretrained, **arguments)

    def check(self, pretrained: str | None, arguments: dict) -> None:
        """ValueError for a checkpoint or arguments that would answer, and answer wrongly."""
        made = read_config(pretrained)
        check_family(pretrained, made, self.family)
        if "mm_spatial_pool_mode" in arguments:
            check_pool(made, arguments["mm_spatial_pool_mode"], arguments.get("mm_spatial_pool_stride", 2))

    def generate_until(self, requests):
        for request in requests:
            prompt, generation, doc_to_visual, *place = request.args
            request.arguments = (prompt, generation, partial(_one_video, doc_to_visual), *place)
        with exit_on_error():
            return super().generate_until(requests)

    def load_video(self, video_path, *arguments, **named):
        try:
            return super().load_video(video_path, *arguments, **named)
        except Exception as error:
            # the stock code would catch any other exception and go on without the video
            raise SystemExit(f"The video {video_path} cannot be read ({error}); put a whole one there.") from error

    def loglikelihood(self, requests):
        raise SystemExit(LIKELIHOOD)


def _one_video(doc_to_visual, doc):
    """What the task shows; ends the run where the stock code would look at the first of several videos alone."""
    found = doc_to_visual(doc)
    visuals = found if isinstance(found, list | tuple) else [found]
    if len(visuals) > 1 and any(isinstance(visual, str) for visual in visuals):
        raise SystemExit(
            f"A question shows {len(visuals)} videos and images, of which this wrapper would see one; "
            "use llava_onevision_aot or llava_vid_aot."
        )
    return found


class LlavaOneVision(_Guarded, llava_onevision.Llava_OneVision):
    family = ONEVISION


class LlavaVid(_Guarded, llava_vid.LlavaVid):
    family = VIDEO

    def check(self, pretrained: str | None, arguments: dict) -> None:
        super().check(pretrained, arguments)
        if arguments.get("video_decode_backend", "decord") != "decord":
            raise ValueError("llava_vid reads videos with decord only; leave video_decode_backend out.")
        if any(word in str(pretrained).lower() for word in ("yi", "vicuna")):
            raise ValueError(
                f"llava_vid takes {pretrained} for another model because of its path, and changes its rotary "
                'positions; put the checkpoint at a path without "yi" and "vicuna", or use --model llava_vid_aot.'
            )
