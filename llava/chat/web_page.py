"""The layout of the page and what its controls do; all that knows Gradio."""

import base64
import binascii
import html
import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial, wraps
from pathlib import Path

import gradio as gr
import torch
from gradio.context import LocalContext
from starlette.middleware import Middleware

from aot import AOTConfig
from llava.chat.answer import Answer, ChatError, frames
from llava.chat.live import FPS, LiveSession
from llava.chat.options import one_sentence
from llava.chat.web_uploads import UploadGuard, Uploads
from llava.chat.web_worker import Worker

TITLE = "Ask about a video with a share of its tokens"
INTRODUCTION = (
    "The model reads a video as visual tokens. The slider says which share of them it may read; the answer with all "
    "of them stands beside, and the picture shows which ones were kept. Every question is asked afresh."
)
LIVE = (
    "A camera, or a film at its own pace, goes on while you ask. The model never holds more visual tokens than a "
    "number: old ones are compressed further as new frames come."
)
CSS = """
#status p { color: #B00020; font-weight: 600; margin: 0; }
#about p, #live-about p { margin: 0; }
#stale p { color: #7A4B00; background: #FFF3D6; font-weight: 600; margin: 0; padding: .3rem .5rem; }
#reduced:has(#stale p) :is(textarea, .cost) { opacity: .45; }
.cost { width: 100%; border-collapse: collapse; }
.cost td { padding: .1rem .4rem; } .cost td + td { text-align: right; }
#kept img { width: 100%; background: white; }
footer { display: none !important; }
"""
NO_ANSWERS = ("",) * 5
# what a person can put right; anything else is a defect and goes to the server's log
EXPECTED = (ValueError, OSError, torch.cuda.OutOfMemoryError)


class Actions:
    """What the page's controls do. Each gives the status line first, which stays empty."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def look(self, path: str | None, percent: float, request: gr.Request):
        """A video was given or taken away."""
        visitor = _visitor(request)
        if path is None:
            self.worker.leave(visitor)
            return "", "", "", *NO_ANSWERS
        loaded = self.worker.look(visitor, path)
        about = (
            f"<p>{html.escape(Path(loaded.path).name)}: {loaded.video.duration:.1f} s, the model looks at "
            f"{len(loaded.video.frames)} frames, {loaded.before.visual} visual tokens.</p>"
        )
        drawn, _ = self.worker.picture(visitor, percent / 100)
        return "", about, _image(drawn), *NO_ANSWERS

    def show(self, path: str | None, percent: float, request: gr.Request):
        """The slider came to rest."""
        if path is None:
            return "", "", ""
        drawn, asked = self.worker.picture(_visitor(request), percent / 100)
        stale = ""  # what stands over an answer that belongs to another share than the picture
        if asked is not None and round(100 * asked) != round(percent):
            stale = (
                f'<p role="note">This answer is from {100 * asked:.3g} % of the tokens, the picture shows '
                f"{percent:.3g} %. Press Ask to answer again.</p>"
            )
        return "", _image(drawn), stale

    def ask(self, text: str, percent: float, request: gr.Request):
        """A question was sent."""
        result = self.worker.ask(_visitor(request), text, percent / 100)
        limit = self.worker.limits.answer_seconds
        sides = [(_words(answer, limit), _cost(answer)) for answer in (result.whole, result.reduced)]
        return "", *sides[0], *sides[1], _image(result.picture), ""

    def watch(self, picture: str | None, request: gr.Request):
        """The camera sent a picture, as a data URL."""
        if picture is None:
            return "", gr.skip()
        try:
            data = base64.b64decode(picture.partition(";base64,")[2], validate=True)
        except binascii.Error as error:
            raise ChatError("The camera's picture is no base64; open the page again.") from error
        return "", _watched(self.worker.push(_watcher(request), data))

    def play(self, path: str | None, request: gr.Request):
        """A film was given, which is watched from now on, or taken away."""
        watcher = _watcher(request)
        if path is None:
            self.worker.leave(watcher)
            return "", "", gr.Timer(active=False)
        return "", _watched(self.worker.play(watcher, path)), gr.Timer(active=True)

    def tick(self, request: gr.Request):
        """A second went by while a film is played."""
        live, playing, told = self.worker.watched(_watcher(request))
        return "", _watched(live, told), gr.Timer(active=playing)

    def ask_live(self, text: str, request: gr.Request):
        """A question about what was watched so far."""
        answer = self.worker.ask_live(_watcher(request), text)
        at = f"[{_clock(answer.until)}] {_words(answer, self.worker.limits.answer_seconds)}"
        return "", at, _cost(answer)

    def leave(self, request: gr.Request):
        for key in (_visitor(request), _watcher(request)):
            self.worker.leave(key)


def build_page(worker: Worker, config: AOTConfig, *, note: str | None = None) -> gr.Blocks:
    """The page on a worker. config: where the slider stands at first. note: what to know about the model."""
    actions = Actions(worker)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        if note:
            gr.Markdown(f"**{note}**", elem_id="note")
        status = gr.HTML(elem_id="status")
        with gr.Tab("A video"):
            _video_tile(actions, config, status)
        with gr.Tab("Live", elem_id="live"):
            _live_tile(actions, status)
        page.unload(actions.leave)
    for block in page.blocks.values():
        block.async_move_resource_to_block_cache = partial(_uploaded, block.async_move_resource_to_block_cache)
    return page


async def _uploaded(move: Callable, path: str | Path | None) -> str | None:
    """Gradio's `move` of a file that a component was given; it would fetch an address from the server."""
    if str(path).lower().startswith(("http:", "https:")):
        raise gr.Error("A video must be uploaded; nothing is fetched from elsewhere.")
    return await move(path)


def _video_tile(actions: Actions, config: AOTConfig, status: gr.HTML) -> None:
    """A file, a question, and the answers with all tokens and with a share of them."""
    limits = actions.worker.limits
    with gr.Row():
        with gr.Column(scale=2):
            label = f"Video, at most {limits.megabytes:g} MB and {limits.video_seconds:g} s"
            video = gr.Video(label=label, sources=["upload"], height=330, elem_id="video")
            about = gr.HTML(elem_id="about")
            question = gr.Textbox(label="Question", placeholder="How many objects are there?", elem_id="question")
            most = "" if config.max_tokens is None else f", at most {config.max_tokens} tokens"
            start = 100 * (1.0 if config.retention is None else config.retention)
            share = gr.Slider(1, 100, start, step=1, label=f"Tokens to keep, %{most}", elem_id="retention")
            button = gr.Button("Ask", variant="primary", elem_id="ask")
        with gr.Column(scale=3), gr.Row():
            with gr.Column(min_width=220):
                whole = _answer("Answer from all tokens", "whole")
            with gr.Column(min_width=220, elem_id="reduced"):
                reduced = _answer("Answer from the kept tokens", "reduced")
                stale = gr.HTML(elem_id="stale")
    picture = gr.HTML(elem_id="kept")
    look = _told(actions.look, "", "", *NO_ANSWERS)
    seen = [status, about, picture, *whole, *reduced, stale]
    gr.on([video.upload, video.clear], look, [video, share], seen, api_name="look")
    # while the slider moves, only where it came to rest is drawn
    show = _told(actions.show, gr.skip(), gr.skip())
    share.input(show, [video, share], [status, picture, stale], trigger_mode="always_last", api_name="show")
    ask = _told(actions.ask, "", "", "", "", gr.skip(), "")
    answered = [status, *whole, *reduced, picture, stale]
    gr.on([button.click, question.submit], ask, [question, share], answered, api_name="ask")


def _live_tile(actions: Actions, status: gr.HTML) -> None:
    """A camera or a film that goes on, and a question about it at any time."""
    limits = actions.worker.limits
    gr.Markdown(LIVE)
    with gr.Row():
        with gr.Column():
            camera = gr.Image(label="Camera", sources=["webcam"], streaming=True, height=300, elem_id="camera")
            # a data URL as it came: pictures are decoded in a process of their own, and not by Gradio in this one
            camera.preprocess = lambda payload: payload and payload.url
            label = f"Film, at most {limits.megabytes:g} MB and {limits.video_seconds:g} s"
            film = gr.Video(label=label, sources=["upload"], autoplay=True, height=300, elem_id="film")
            about = gr.HTML(elem_id="live-about")
        with gr.Column():
            question = gr.Textbox(label="Question", placeholder="What moves?", elem_id="live-question")
            button = gr.Button("Ask", variant="primary", elem_id="live-ask")
            answer, cost = _answer("Answer", "live")
    seconds = gr.Timer(1.0, active=False)
    watch = _told(actions.watch, gr.skip())
    every = 1 / (actions.worker.fps or FPS)
    camera.stream(
        watch,
        camera,
        [status, about],
        stream_every=every,
        time_limit=int(limits.video_seconds),
        concurrency_limit=limits.visitors,
        show_progress="hidden",
        api_name="watch",
    )
    play = _told(actions.play, "", gr.Timer(active=False))
    gr.on([film.upload, film.clear], play, film, [status, about, seconds], api_name="play")
    tick = _told(actions.tick, "", gr.Timer(active=False))
    seconds.tick(tick, None, [status, about, seconds], show_progress="hidden", api_name="tick")
    ask = _told(actions.ask_live, gr.skip(), gr.skip())
    gr.on([button.click, question.submit], ask, question, [status, answer, cost], api_name="ask_live")


def serve(page: gr.Blocks, worker: Worker, folder: Path, *, host: str, port: int) -> str:
    """Serves the page in threads of its own and returns its address. folder: where Gradio puts uploads."""
    limits = worker.limits
    uploads = Uploads(
        folder,
        most_bytes=int(1e6 * limits.megabytes * limits.visitors),
        most_files=4 * limits.visitors,
        in_use=worker.files,
    )
    page.queue(default_concurrency_limit=8, max_size=64)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=int(1e6 * limits.megabytes),
        css=CSS,
        share=False,
        quiet=True,
        ssr_mode=False,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(UploadGuard, uploads=uploads)]},
    )
    return address


def _visitor(request: gr.Request) -> str | None:
    """The session of a visitor; None for a call that brought none, for which Gradio puts the call's own number."""
    return None if request.session_hash == LocalContext.event_id.get() else request.session_hash


def _watcher(request: gr.Request) -> str | None:
    """The key of what a visitor watches, which has a place of its own."""
    visitor = _visitor(request)
    return visitor and f"live:{visitor}"


def _told(action: Callable, *otherwise) -> Callable:
    """The action, with a mistake told as one sentence in the status line and `otherwise` in the other outputs.

    The sentence does not tell the folder that an upload lies in on the server.
    """

    @wraps(action)  # Gradio reads the parameters of what it calls
    def act(*values):
        try:
            return action(*values)
        except EXPECTED as error:
            text = one_sentence(error)
            for value in values:
                if isinstance(value, str) and value and Path(value).is_absolute():
                    text = text.replace(value, Path(value).name)
            return f'<p role="alert">{html.escape(text)}</p>', *otherwise

    return act


def _answer(title: str, name: str) -> tuple[gr.Textbox, gr.HTML]:
    answer = gr.Textbox(label=title, lines=3, interactive=False, elem_id=f"{name}-answer")
    return answer, gr.HTML(elem_id=f"{name}-cost")


def _watched(live: LiveSession, told: str = "") -> str:
    """How far a live session has come. told: what else is to be said."""
    config = live.session.compression
    seen = f"{_clock(live.until)}, {frames(live.frames)}" if live.frames else "no frame yet"
    return f"<p>Seen: {seen}; at most {config.max_tokens} visual tokens. {html.escape(told)}</p>"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _words(answer: Answer, limit: float) -> str:
    """The answer's text, with a note when time ran out."""
    cut = answer.timings["total"] >= 1e3 * limit
    return f"{answer.text} (stopped at the limit of {limit:g} s)" if cut else answer.text


def _cost(answer: Answer) -> str:
    """Tokens and times as a small table."""
    times = answer.timings
    bound = f", by {answer.bound}" if answer.bound in ("max_tokens", "distortion") else ""
    rows = {
        "visual tokens": f"{answer.after.visual} of {answer.before.visual} ({100 * answer.retention:.3g} %{bound})",
        "newline tokens": answer.after.newline,
        "compression": f"{times['compress']:.1f} ms",
        "first token after": f"{times['first_token']:.0f} ms",
        "whole answer": f"{times['total']:.0f} ms",
    }
    cells = "".join(f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in rows.items())
    return f'<table class="cost">{cells}</table>'


def _image(picture) -> str:
    """The picture inside the page itself: no file of it is left on the server."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="Every frame with the tokens that were kept" src="data:image/png;base64,{data}">'
