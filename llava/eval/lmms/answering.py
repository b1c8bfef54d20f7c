"""What both wrappers of the method share: asking question by question, recording each, and working in a queue."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from loguru import logger
from tqdm import tqdm

from aot import AOTConfig
from llava.eval.campaign.store import ResponseStore
from llava.eval.lmms.build import Ending
from llava.eval.lmms.fingerprint import checkpoint_fingerprint, checkpoint_folder
from llava.eval.lmms.measure import Measure, retention
from llava.eval.lmms.questions import (
    FOLDER,
    PADDING,
    Question,
    as_stock,
    marking_folders,
    question_of,
    reply_to_grade,
    video_size,
)
from llava.eval.lmms.ranks import Memory, everyones, longest_first
from llava.video import DECODERS, Video, VideoError, load_video

_LOOK = 2.0  # seconds between two looks at how far all ranks are
_REPORTED = ("settings", "failure", "tokens", "retention", "seconds", "rank")  # the rest is in the row already


@dataclass
class Cost(TokenCounts):
    """Carries a question's record into the rows of samples that lmms-eval writes beside its results."""

    record: dict | None = None

    def to_dict(self) -> dict:
        return {**super().to_dict(), **{name: self.record[name] for name in _REPORTED}}


class Answering:
    """Goes before a stock wrapper among the bases; `stock_id` is that wrapper's model id.

    A question that cannot be answered is recorded with its reason, never answered from the text alone, and handed
    to the grader as something that it counts as wrong. The run goes on.
    """

    stock_id: str

    def prepare(
        self, accelerator: Accelerator, *, config: AOTConfig | None, store: str | None, decoder: str, **effective
    ) -> None:
        """To be called once the stock wrapper is built.

        accelerator: of all ranks. config: the method's settings, None for no reduction. store: folder of the
        responses. effective: what else the replies depend on, as plain JSON values.
        """
        if decoder not in DECODERS:
            raise ValueError(f"There is no video_decode_backend {decoder!r}; choose one of {', '.join(DECODERS)}.")
        self._config.aot = config
        self._decoder = decoder
        self._measure = Measure(self._model)
        self._settings = {
            "aot": None if config is None else config.to_dict(),
            "frames": self.max_frames_num,
            "pool": self._config.mm_spatial_pool_mode,
            "newline_position": getattr(self._config, "mm_newline_position", None) or "one_token",
            "template": self.conv_template,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            **effective,
        }
        fingerprint = checkpoint_fingerprint(checkpoint_folder(self.pretrained))
        self._identity = {"model": fingerprint, "wrapper": self.stock_id, "settings": self._settings}
        self._answers = Memory() if store is None else ResponseStore(store)
        self._shared = store is not None
        self.accelerator = accelerator

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Replies to all requests of this rank; with a store, whoever is free takes the next question."""
        with Ending():
            return self._generate(requests)

    def loglikelihood(self, requests):
        raise SystemExit("Likelihood tasks are not offered: the stock wrappers score them wrongly; use generation.")

    def generate_until_multi_round(self, requests):
        raise SystemExit("Tasks of several rounds are not offered; use tasks that ask one question.")

    def clean(self) -> None:
        self._answers.close()
        super().clean()

    def _generate(self, requests: list[Instance]) -> list[GenerationResult]:
        questions: list[Question | None] = []
        visuals: dict[str, Callable] = {}
        for request in requests:
            if (request.metadata or {}).get(PADDING):
                questions.append(None)
                continue
            as_stock(request, self.stock_id)
            _, _, doc_to_visual, _, task, _ = request.args
            visuals[task] = doc_to_visual
            question = question_of(request, self._identity)
            questions.append(question_of(request, self._identity, self._size(question, doc_to_visual)))
        mine = [question for question in questions if question is not None]
        if self._world_size > 1 and not self._shared:
            logger.warning("without store=FOLDER in --model_args the ranks share their work unevenly")
        queue = everyones(mine) if self._shared else longest_first(mine)
        # a task of which this rank has no document of its own is left to the others
        self._work([question for question in queue if question.task in visuals], visuals)
        return [self._result(question) for question in questions]

    def _work(self, queue: list[Question], visuals: dict[str, Callable]) -> None:
        by_key = {question.key: question for question in queue}
        if self._shared:
            self._answers.expect(len(by_key))
        looked = 0.0
        with tqdm(total=len(by_key), desc="questions of all ranks", disable=self.rank != 0) as bar:
            for key in self._answers.work(by_key):
                question = by_key[key]
                self._answers.put(key, self._answer(question, visuals[question.task]))
                if time.monotonic() - looked > _LOOK:
                    looked = time.monotonic()
                    bar.update(len(by_key.keys() & self._answers.records().keys()) - bar.n)
            bar.update(len(by_key) - bar.n)
        failed = sum(self._answers.get(key)["failure"] is not None for key in by_key)
        if failed and self.rank == 0:
            logger.error(f"{failed} of {len(by_key)} questions FAILED; they count as wrong")

    def _result(self, question: Question | None) -> GenerationResult:
        if question is None:
            return GenerationResult("")
        record = self._answers.get(question.key)
        reply = reply_to_grade(record, self.task_dict[question.task][question.split][question.doc_id])
        return GenerationResult(reply, Cost(output_tokens=record["tokens"]["generated"], record=record))

    def _size(self, question: Question, doc_to_visual: Callable) -> int:
        """Size of the video, where the order of work asks for it; a missing file fails when its turn comes."""
        if not self._shared:
            return 0
        try:
            return video_size(doc_to_visual(self.task_dict[question.task][question.split][question.doc_id]))
        except (Exception, SystemExit):  # noqa: BLE001 - a task's own code; it runs again, and is recorded, below
            return 0

    def _answer(self, question: Question, doc_to_visual: Callable) -> dict:
        """The record of one question, answered or failed."""
        self._measure.start()
        reply, failure = None, None
        try:
            reply = self._ask(question, doc_to_visual)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is recorded and the run goes on
            failure = _reason(error)
        if self._measure.failure is not None:  # the stock code goes on without a video, or says so in the reply
            reply, failure = None, _reason(self._measure.failure)
        if failure is not None:
            logger.error(f"{question.task} {question.doc_id} failed: {failure}")
        tokens = self._measure.tokens()
        return {
            **self._identity,
            "task": question.task,
            "doc_id": question.doc_id,
            "prompt": question.prompt,
            "reply": reply,
            "failure": failure,
            "tokens": tokens,
            "retention": retention(tokens),
            "seconds": self._measure.seconds(),
            "rank": self.rank,
        }

    def _ask(self, question: Question, doc_to_visual: Callable) -> str:
        """One question through the stock wrapper, without its progress bar."""
        one = Instance(
            request_type="generate_until",
            arguments=(
                question.prompt, dict(question.generation), marking_folders(doc_to_visual),
                question.doc_id, question.task, question.split,
            ),
            idx=0,
            metadata={"task": question.task, "doc_id": question.doc_id, "repeats": 1},
        )  # fmt: skip
        rank, self._rank = self._rank, -1
        try:
            (reply,) = super().generate_until([one])
        finally:
            self._rank = rank
        return reply

    def read(self, path: str, **sampling) -> Video:
        """The frames of a video as the chat reads them; what goes wrong is kept as the question's failure."""
        started = time.perf_counter()
        try:
            video = load_video(path.removeprefix(FOLDER), decoder=self._decoder, **sampling)
        except VideoError as error:
            self._measure.failure = error
            raise
        self._measure.decoded(len(video.frames), time.perf_counter() - started)
        return video


def _reason(error: BaseException) -> str:
    """Kind and text of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
