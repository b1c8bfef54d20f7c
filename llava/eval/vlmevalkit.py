"""VLMEvalKit on this project's models: `python -m llava.eval.vlmevalkit VLMEVALKIT/run.py --config FILE …`.

VLMEvalKit builds a model from the name of a class in `vlmeval.vlm`. `LlavaAOT` is put there, and its run.py is run as
it is.
"""

import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aot_cli.parser import Parser
from llava.chat.answer import ChatError
from llava.chat.options import add_model_options, load_session


class LlavaAOT:
    """A model under one setting; `register` puts it before VLMEvalKit's BaseModel.

    options: those of `aot chat`, such as model_path="checkpoints/aot-tiny", retention="10%", set=["clips=dynamic"].
    nframe, fps: how VLMEvalKit says which frames a benchmark takes: one is a number and the other None. Both None
    leave it to the model, and so does a checkpoint of transformers, whose processor chooses.
    """

    VIDEO_LLM = INTERLEAVE = True  # a video comes as its path; images and texts in their order

    def __init__(self, **options: Any):
        super().__init__()
        parser = Parser(prog="LlavaAOT")
        add_model_options(parser)
        words = []  # as a command line has them: a list says an option several times, and true is a switch
        for name, value in options.items():
            option = f"--{name.replace('_', '-')}"
            several = value if isinstance(value, list) else [value]
            words += [option if one is True else f"{option}={one}" for one in several]
        self.session = load_session(parser.parse_args(words))
        self._usual = self.session.sampling
        self.nframe, self.fps = self._usual.num_frames or None, 1.0

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to one question. message: {"type": "text", "image" or "video", "value": a text or a path} each.

        Images stand before the video. Raises ChatError, VideoError or AOTError (all ValueError), which ends the
        benchmark with its sentence: a text in the reply's place would be graded.
        """
        shown = {kind: [part["value"] for part in message if part["type"] == kind] for kind in ("image", "video")}
        if len(shown["video"]) > 1:
            raise ChatError(f"A question shows {len(shown['video'])} videos; this model is asked about one at a time.")
        session = self.session
        # the frames as the benchmark takes them
        if self.nframe or self.fps:
            frames = self.nframe or self._usual.num_frames
            sampling = replace(self._usual, num_frames=frames, fps=self.fps)
        else:
            sampling = self._usual
        # what is shown; a video is encoded once for the questions about it that follow each other
        session.images.clear()
        held = session.loaded.path if session.loaded and session.sampling == sampling else None
        session.sampling = sampling
        for path in shown["image"]:
            session.add_image(path)
        if not shown["video"]:
            session.loaded = None
        elif shown["video"][0] != held:
            session.set_video(shown["video"][0])
        # the question
        texts = [part["value"].strip() for part in message if part["type"] == "text"]
        return session.ask("\n".join(filter(None, texts)), remember=False).text


def register() -> None:
    """Puts `LlavaAOT` among VLMEvalKit's models. ImportError where VLMEvalKit is not installed."""
    import vlmeval.vlm

    vlmeval.vlm.LlavaAOT = type("LlavaAOT", (LlavaAOT, vlmeval.vlm.BaseModel), {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs VLMEvalKit's run.py with the arguments that follow its path."""
    script, *_ = words = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if not Path(script).is_file():
        print("Give the path of VLMEvalKit's run.py, and its arguments after it.", file=sys.stderr)
        return 2
    sys.path.insert(0, str(Path(script).resolve().parent))
    register()
    sys.argv = words
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
