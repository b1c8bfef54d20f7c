"""What all wrappers of the method share: asking question by question, recording each, in equal shares."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from loguru import logger
from tqdm import tqdm

from llava.eval.lmms.build import exit_on_error
from llava.eval.lmms.measure import Measure, retention
from llava.eval.lmms.questions import PADDING, Question, deal, gather, reply_to_grade, use_stock_prompt
from llava.eval.lmms.visuals import FOLDER, Visual, listed
from llava.eval.provenance import checkpoint_fingerprint
from llava.eval.records import Record
from llava.eval.store import ResponseStore, question_key
from llava.video import Video, VideoError, load_video

_POLL = 0.5  # seconds between two looks at how far the other ranks are


@dataclass
class Cost(TokenCounts):
    """Carries a question's record into the rows of samples that lmms-eval writes beside its results."""

    record: Record | None = None

    def to_dict(self) -> dict:
        told = self.record
        measured = {"failure": told.failure, "tokens": told.tokens, "seconds": told.seconds}
        return {**super().to_dict(), **told.details, **measured}


class AOTWrapperMixin:
    """Goes before a stock wrapper among the bases; `stock_id` is that wrapper's model id.

    A question that cannot be answered is recorded with its reason, never answered from the text alone, and handed
    to the grader as something that it counts as wrong. The run goes on.
    """

    stock: ModuleType  # of lmms-eval, which the stock wrapper is in
    stock_id: str

    def _prepare(
        self, accelerator: Accelerator, measure: Measure, settings: dict[str, Any], store: str | None, decoder: str
    ) -> None:
        """What asking needs. settings: what the replies depend on beside checkpoint and wrapper."""
        self.accelerator, self._measure, self._decoder = accelerator, measure, decoder
        self._identity = {
            "model": checkpoint_fingerprint(self.pretrained), "wrapper": self.stock_id, "settings": settings,
        }  # fmt: skip
        self._answers = ResponseStore(store)

    def loglikelihood(self, requests):
        raise SystemExit("Likelihood tasks are not offered: the stock wrappers score them wrongly; use generation.")

    def generate_until_multi_round(self, requests):
        raise SystemExit("Tasks of several rounds are not offered; use tasks that ask one question.")

    def clean(self) -> None:
        self._answers.close()
        super().clean()

    @exit_on_error()
    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Replies to all requests of this rank; with a store the ranks share what is open equally."""
        # 1. the questions of this rank, in the wording of the stock wrapper; None evens out the ranks
        questions: list[Question | None] = []
        visuals: dict[str, Callable] = {}
        for request in requests:
            if (request.metadata or {}).get(PADDING):
                questions.append(None)
                continue
            use_stock_prompt(request, self.stock_id)
            prompt, generation, doc_to_visual, doc_id, task, split = request.args
            visuals[task] = doc_to_visual
            size = _size(doc_to_visual, self.task_dict[task][split][doc_id]) if self._answers.folder else 0
            said = {"task": task, "split": split, "doc_id": doc_id, "prompt": prompt}
            key = question_key(**self._identity, **said, generation=generation)
            questions.append(Question(**said, generation=copy.deepcopy(generation), key=key, size=size))
        mine = [question for question in questions if question is not None]
        # 2. what has no record yet, dealt to the ranks; without a store each rank keeps its own
        shared = self._answers.folder is not None
        if self._world_size > 1 and not shared:
            logger.warning("without store=FOLDER in --model_args the ranks share their work unevenly")
        open_ = [question for question in mine if self._answers.get(question.key) is None]
        shares = gather((mine, open_)) if shared else [(mine, open_)]
        holders: dict[str, list[int]] = {}
        for rank, (share, _) in enumerate(shares):
            for task in dict.fromkeys(question.task for question in share):
                holders.setdefault(task, []).append(rank)
        dealt = deal([share for _, share in shares], holders)
        # 3. the answers of this rank; then those of the others
        keys = {question.key for share, _ in shares for question in share}
        self._answers.expect(len(keys))
        for question in tqdm(dealt[self.rank if shared else 0], desc="questions of this rank", disable=self.rank != 0):
            self._answers.put(question.key, self._answer(question, visuals[question.task]))
        while self._answers.answered(keys) < len(keys):  # no barrier: its timeout may be shorter than a rank is slow
            time.sleep(_POLL)
        failed = sum(self._answers.get(key).failure is not None for key in keys)
        if failed and self.rank == 0:
            logger.error(f"{failed} of {len(keys)} questions FAILED; they count as wrong")
        return [self._result(question) for question in questions]

    def _result(self, question: Question | None) -> GenerationResult:
        if question is None:
            return GenerationResult("")
        record = self._answers.get(question.key)
        reply = reply_to_grade(record, self._doc(question))
        return GenerationResult(reply, Cost(output_tokens=record.tokens["generated"], record=record))

    def _doc(self, question: Question) -> dict:
        return self.task_dict[question.task][question.split][question.doc_id]

    def _answer(self, question: Question, doc_to_visual: Callable) -> Record:
        """The record of one question, answered or failed."""
        self._measure.start()
        reply, failure = None, None
        try:
            reply = self._ask(question, doc_to_visual)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is recorded and the run goes on
            failure = _reason(error)
        if self._measure.failure is not None:  # the stock code goes on without a video, or says so in its reply
            reply, failure = None, _reason(self._measure.failure)
        if failure is not None:
            logger.error(f"{question.task} {question.doc_id} failed: {failure}")
        tokens = self._measure.tokens()
        return Record(
            task=question.task,
            doc_id=str(question.doc_id),
            failure=failure,
            reply=reply,
            tokens=tokens,
            seconds=self._measure.seconds(),
            prompt=question.prompt,
            details={"settings": self._identity["settings"], "retention": retention(tokens), "rank": self.rank},
        )

    def _ask(self, question: Question, doc_to_visual: Callable) -> str:
        """The reply to one question, about all of its visuals."""
        return self._ask_stock(question, listed(doc_to_visual(self._doc(question))))

    def _ask_stock(self, question: Question, visuals: list[Visual]) -> str:
        """One question through the stock wrapper, without its progress bar."""
        shown = [FOLDER + one if isinstance(one, str) and os.path.isdir(one) else one for one in visuals]
        one = Instance(
            request_type="generate_until",
            arguments=(
                question.prompt, dict(question.generation), lambda _: shown,
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

    def load_frames(self, path: str, **sampling) -> Video:
        """As `load_video`."""
        return load_video(path, **sampling)

    def read(self, path: str, **sampling) -> Video:
        """The frames of a video as the chat reads them; what goes wrong is kept as the question's failure."""
        started = time.perf_counter()
        try:
            video = self.load_frames(path.removeprefix(FOLDER), decoder=self._decoder, **sampling)
        except VideoError as error:
            self._measure.failure = error
            raise
        self._measure.decoded(len(video.frames), time.perf_counter() - started)
        return video


def _size(doc_to_visual: Callable, doc: dict) -> int:
    """Bytes of a question's videos, by which the order of work goes; a missing file fails when its turn comes."""
    try:
        paths = [one for one in listed(doc_to_visual(doc)) if isinstance(one, str) and os.path.isfile(one)]
        return sum(map(os.path.getsize, paths))
    except (Exception, SystemExit):  # noqa: BLE001 - a task's own code; it runs again, and is recorded, later
        return 0


def _reason(error: BaseException) -> str:
    """Kind and text of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
