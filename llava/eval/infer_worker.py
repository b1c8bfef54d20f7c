"""One of the processes of `aot infer`: answers the questions about its share of the videos."""

import sys

import torch
import torch.distributed as dist

from aot_cli.main import make_parser
from llava.chat.answer import cost
from llava.chat.options import EXPECTED, load_session, one_sentence
from llava.chat.session import ChatSession
from llava.eval.infer import Asked, by_video, read_questions, work_folder
from llava.eval.records import Record
from llava.eval.store import ResponseStore


def main(arguments: list[str] | None = None) -> int:
    """Works until every question of its share has a record; failed ones are recorded and do not stop it."""
    options = make_parser().parse_args(["infer", *(sys.argv[1:] if arguments is None else arguments)])
    rank, world = 0, 1
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
        rank, world = dist.get_rank(), dist.get_world_size()
    if options.device is None and torch.cuda.is_available():
        options.device = f"cuda:{dist.get_node_local_rank(fallback_rank=0)}"
    try:
        videos = by_video(read_questions(options))
        with ResponseStore(work_folder(options)) as store:
            # what is open as rank 0 sees it, the most work first, in turns
            open_ = [[name for name, asked in videos.items() if any(store.get(a.key) is None for a in asked)]]
            if world > 1:
                dist.broadcast_object_list(open_)
            mine = open_[0][rank::world]
            session = load_session(options) if mine else None
            for name in mine:
                _answer(session, [asked for asked in videos[name] if store.get(asked.key) is None], store)
    except EXPECTED as error:
        print(one_sentence(error), file=sys.stderr)
        return 1
    return 0


def _answer(session: ChatSession, questions: list[Asked], store: ResponseStore) -> None:
    """Answers questions about one video, each by itself."""
    unread = None
    try:
        session.set_video(questions[0].video)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded and the run goes on
        unread = error
    for asked in questions:
        reply, details, failure = None, {}, unread
        if failure is None:
            try:
                answer = session.ask(asked.question, remember=False)
                reply, details = answer.text, cost(answer)
            except Exception as error:  # noqa: BLE001 - as above
                failure = error
        reason = None if failure is None else f"{type(failure).__name__}: {one_sentence(failure)}"
        about = {"prompt": asked.question, "source": asked.video, "details": details}
        store.put(asked.key, Record("infer", str(asked.id), failure=reason, reply=reply, **about))


if __name__ == "__main__":
    sys.exit(main())
