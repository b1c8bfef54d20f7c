"""One of the processes of `llava.eval.infer`: takes videos from the shared queue and answers their questions."""

import sys

import torch

from aot_cli.main import make_parser
from llava.chat.answer_cost import cost
from llava.chat.options import EXPECTED, load_session, one_sentence
from llava.chat.session import ChatSession
from llava.eval.infer import work_folder
from llava.eval.inference.job import Asked, read_job
from llava.eval.sweep.store import ResponseStore


def main(arguments: list[str] | None = None) -> int:
    """Works until every question of the input has a record; failed ones are recorded and do not stop it."""
    options = make_parser().parse_args(["infer", *(sys.argv[1:] if arguments is None else arguments)])
    if options.device is None and torch.cuda.is_available():
        options.device = f"cuda:{torch.distributed.get_node_local_rank(fallback_rank=0)}"
    try:
        job = read_job(options)
        with ResponseStore(work_folder(options)) as store:
            videos = job.videos()
            session = load_session(options)
            for key in store.work(videos):
                _answer(session, [asked for asked in videos[key] if store.get(asked.key) is None], store)
                store.put(key, {"video": videos[key][0].video})
    except EXPECTED as error:
        print(one_sentence(error), file=sys.stderr)
        return 1
    return 0


def _answer(session: ChatSession, questions: list[Asked], store: ResponseStore) -> None:
    """Answers questions about one video, each by itself."""
    failure = None
    try:
        if questions:
            session.set_video(questions[0].video)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded and the run goes on
        failure = f"{type(error).__name__}: {one_sentence(error)}"
    for asked in questions:
        store.put(asked.key, _record(session, asked) if failure is None else {"answer": None, "failure": failure})


def _record(session: ChatSession, asked: Asked) -> dict:
    try:
        answer = session.ask(asked.question, remember=False)
    except Exception as error:  # noqa: BLE001 - as above
        return {"answer": None, "failure": f"{type(error).__name__}: {one_sentence(error)}"}
    return {"answer": answer.text, "failure": None, **cost(answer)}


if __name__ == "__main__":
    sys.exit(main())
