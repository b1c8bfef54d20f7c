import json
import subprocess
import sys

import pytest

import llava.eval.infer as infer
from aot_cli.main import make_parser
from aot_tiny.shapes.clips import write_clip
from llava.eval.infer import by_video, read_questions
from llava.eval.jsonl import read_jsonl
from llava.eval.records import Record
from llava.eval.store import ResponseStore


def questions(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips and a file that is no video, with four questions about them."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in (0, 1):
        write_clip(folder / f"{seed}.mp4", seed, size=96)
    (folder / "bad.mp4").write_bytes(b"no video")
    rows = [
        {"id": "a", "video": "0.mp4", "question": "How many objects are there?", "answer": "-", "split": {"fold": 1}},
        {"id": "b", "video": "1.mp4", "question": "What moves?"},
        {"id": 3, "video": "bad.mp4", "question": "What is this?"},
        {"id": "d", "video": "0.mp4", "question": "What color is the circle?"},
    ]
    return questions(folder / "q.jsonl", rows)


def test_two_processes_answer_everything_record_the_failure_and_resume(clips, tmp_path):
    output = tmp_path / "a.jsonl"
    words = ["--input", str(clips), "--output", str(output), "--device", "cpu", "--max-new-tokens", "4"]
    words += ["--retention", "0.1"]
    command = [sys.executable, "-m", "llava.eval.infer", *words, "--nproc_per_node", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1, done.stderr  # one video cannot be read
    assert "3: VideoError" in done.stderr and "3 answered, 1 failed" in done.stdout
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", 3, "d"]
    assert lines[0]["input_answer"] == "-" and lines[0]["split"] == {"fold": 1} and lines[0]["answer"] != "-"
    assert lines[2]["answer"] is None and "VideoError" in lines[2]["failure"]
    assert all(line["retention"] == pytest.approx(0.1, abs=0.01) for line in lines if line["failure"] is None)
    store = tmp_path / "a.jsonl.work"
    before = sum(len(path.read_text().splitlines()) for path in store.glob("answers-*.jsonl"))
    assert infer.main(words) == 1
    after = sum(len(path.read_text().splitlines()) for path in store.glob("answers-*.jsonl"))
    assert after == before + 2  # only the failed question was forgotten and asked again
    assert [json.loads(line) for line in output.read_text().splitlines()] == lines


def options(*words):
    return make_parser().parse_args(["infer", *words])


def test_other_settings_are_other_answers(clips, tmp_path):
    words = ["--input", str(clips), "--output", str(tmp_path / "a")]
    tenth = read_questions(options(*words, "--retention", "0.1"))
    for other in (("0.2",), ("0.1", "--tower-dtype", "bfloat16")):
        others = read_questions(options(*words, "--retention", *other))
        assert not {a.key for a in tenth} & {a.key for a in others}
    assert tenth == read_questions(options(*words, "--retention", "0.1"))
    assert list(by_video(tenth).values())[0][0].video.endswith("0.mp4")  # two questions: the most work goes first


@pytest.mark.parametrize("path", ["nowhere", "./nowhere"])
def test_a_checkpoint_that_is_not_there_is_one_sentence(clips, tmp_path, path, capsys):
    assert infer.main(["--input", str(clips), "--output", str(tmp_path / "a"), "--model-path", path]) == 2
    assert capsys.readouterr().err == "aot infer: There is no checkpoint folder nowhere; give a folder or a hub name.\n"


def test_a_file_that_was_replaced_is_another_question(clips, tmp_path):
    words = ["--input", str(clips), "--output", str(tmp_path / "a")]
    before = read_questions(options(*words))
    (clips.parent / "1.mp4").write_bytes((clips.parent / "0.mp4").read_bytes())
    changed = [a.key == b.key for a, b in zip(before, read_questions(options(*words)), strict=True)]
    assert changed == [not a.video.endswith("1.mp4") for a in before]


def test_no_answer_is_no_success(clips, tmp_path, capsys, monkeypatch):
    def dies(words, log, on_poll):
        on_poll()
        log.write_text("Killed\n")
        return -9

    monkeypatch.setattr(infer, "run_module", dies)
    assert infer.main(["--input", str(clips), "--output", str(tmp_path / "a.jsonl")]) == 1
    said = capsys.readouterr().err
    assert "4 of 4 questions have no answer yet" in said and "Killed" in said
    assert not (tmp_path / "a.jsonl").exists()


def test_everything_there_already_is_written_without_a_model(clips, tmp_path, monkeypatch):
    words = ["--input", str(clips), "--output", str(tmp_path / "a.jsonl")]
    lines = read_questions(options(*words))
    with ResponseStore(tmp_path / "a.jsonl.work") as store:
        for asked in lines:
            store.put(asked.key, Record("infer", str(asked.id), reply="x"))
    monkeypatch.setattr(infer, "run_module", lambda *_, **__: 0)
    assert infer.main(words) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no JSON"),
        ('{"id": 1, "video": "a"}', "has no question; write an object with id, video and question"),
        ('{"id": 1, "video": "a", "qestion": "b"}', "has no question; did you mean qestion?"),
        ('{"id": 1.5, "video": "a", "question": "b"}', "id must be"),
        ('{"id": 1, "video": "", "question": "b"}', "not empty"),
        ('{"id": 1, "video": "a\\u0000", "question": "b"}', "no path"),
        (json.dumps({"id": 1, "video": 5000 * "a", "question": "b"}), "name too long"),
        ('{"id": 1, "video": "a", "question": "\\ud800"}', "lone surrogate"),
        ('{"id": 1, "video": "a", "question": "b", "score": {"mean": NaN}}', "NaN or an infinite number"),
        ('{"id": 1, "video": "a", "question": "b", "score": -1e999}', "NaN or an infinite number"),
        (f'{{"id": {"9" * 5000}, "video": "a", "question": "b"}}', "is no JSON"),
        (10_000 * "[", "is no JSON"),
        ("[1]", "no JSON object"),
        ("", "no question"),
    ],
)
def test_input_that_is_no_list_of_questions(tmp_path, capsys, text, words):
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    assert infer.main(["--input", str(path), "--output", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and (not text or f"{path}:1" in said)


def line(number, question="b", video="a"):
    return json.dumps({"id": number, "video": video, "question": question}, ensure_ascii=False)


def test_lines_end_at_line_feeds_alone_and_a_byte_order_mark_is_taken(tmp_path):
    path, words = tmp_path / "q.jsonl", ["--input", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "a")]
    asked = ["one\u2028two", "one\u2029two", "one\u0085two", "one\x0btwo\x1c"]
    text = "\r\n".join(line(number, question) for number, question in enumerate(asked))
    path.write_bytes("\ufeff".encode() + text.encode() + b"\n\n")
    assert [a.question for a in read_questions(options(*words))] == asked


def test_a_bad_line_fails_its_own_question_and_is_named(tmp_path, monkeypatch, capsys):
    path, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    bad = ["{", "3", '{"id": "x"}', line(1), line(2, video="a\0")]
    path.write_bytes("\n".join([line(1), *bad, line(3)]).encode() + b'\n{"id": "\xff"}\n' + line("e\u2028").encode())
    words = ["--input", str(path), "--output", str(output)]
    questions = [a for a in read_questions(options(*words)) if a.failure is None]
    assert [a.id for a in questions] == [1, 3, "e\u2028"]
    with ResponseStore(tmp_path / "a.jsonl.work") as store:
        for asked in questions:
            store.put(asked.key, Record("infer", str(asked.id), reply="half \ud800"))
    monkeypatch.setattr(infer, "run_module", lambda *_, **__: 0)
    assert infer.main(words) == 1
    lines = read_jsonl(output)
    assert [bool(row["failure"]) for row in lines] == [False, *[True] * 5, False, True, False]
    assert all(f"{path}:{number}" in lines[number - 1]["failure"] for number in (2, 3, 4, 5, 6, 8))
    assert lines[4]["id"] == 1 and lines[0]["answer"] == "half \ud800"
    assert f"{path}:2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, words",
    [
        (["--retention", "2"], "retention"),
        (["--set", "nonsense=1"], "Unknown setting nonsense"),
        (["--nnodes", "2"], "--master_addr"),
    ],
)
def test_commands_that_make_no_sense(clips, tmp_path, capsys, more, words):
    assert infer.main(["--input", str(clips), "--output", str(tmp_path / "a"), *more]) == 2
    assert words in capsys.readouterr().err


def test_no_work_begins_where_the_output_cannot_be_or_is_the_input(clips, tmp_path, capsys):
    before = clips.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(clips)
    for output, words in ((tmp_path, "is a folder"), (clips, "over --input"), (link, "over --input")):
        assert infer.main(["--input", str(clips), "--output", str(output)]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert clips.read_bytes() == before and list(tmp_path.iterdir()) == [link]
