"""The chat, the pictures and files of questions on transformers' own checkpoints."""

import json
from dataclasses import replace

import pytest
import torch

from aot_cli.main import make_parser
from llava.chat import chat, visualize
from llava.chat.answer import ChatError, printable
from llava.chat.options import load_session
from llava.eval import infer

from .checkpoints import MARKS


def session_of(checkpoints, family, *words):
    options = ["chat", "--model-path", str(checkpoints(family)), "--max-new-tokens", "5", *words]
    return load_session(make_parser().parse_args(options))


def test_questions_about_a_video(checkpoints, family, clip):
    """At a quarter, at all tokens, in a second turn; the answers are those of the model called by hand."""
    session = session_of(checkpoints, family, "--retention", "25%", "--num-frames", "8")
    loaded = session.set_video(clip)
    assert len(loaded.video.times) == 8
    shown = []
    answer = session.ask("What is there?", on_text=shown.append)
    assert answer.after.visual == answer.before.visual // 4 and "".join(shown).strip() == answer.text
    assert answer.timings["tower"] > 0 and answer.timings["compress"] > 0 and answer.new_tokens == 5
    again = session.ask("And then?")
    assert session._inputs["input_ids"].shape[1] > answer.before.visual + 5
    assert again.before == answer.before and len(session.turns) == 2 and again.after == answer.after
    # all tokens, by hand
    session.forget()
    session.set_retention(1)
    whole = session.ask("What is there?", remember=False)
    assert whole.after == whole.before and whole.timings["compress"] == 0 and whole.settings is None
    inputs = {name: value for name, value in session._inputs.items() if name != "video_frames"}
    made = session.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert printable(session.tokenizer.decode(made, skip_special_tokens=True)).strip() == whole.text
    prompt = session.tokenizer.decode(inputs["input_ids"][0])
    assert prompt.startswith("<|im_start|>user\n") and prompt.endswith(
        "What is there?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_video_is_encoded_once_for_its_questions(checkpoints, family, clip):
    """In turns and in a comparison; every answer is that of a session that has read nothing."""
    session = session_of(checkpoints, family, "--retention", "25%", "--num-frames", "8")
    session.set_video(clip)
    encoded = []
    session._tower.register_forward_hook(lambda *_: encoded.append(1))
    text = int((session._prompt("What is there?") != session._visual_token).sum())
    first = session.ask("What is there?")
    more = int((session._prompt("And then?") != session._visual_token).sum()) - text
    second = session.ask("And then?")
    passes = len(encoded)
    assert first.prefilled == text + first.after.visual + first.after.newline
    assert second.prefilled <= more and second.timings["compress"] == 0
    session.prompts_kept, turns = 0, session.turns
    assert replace(session, turns=turns[:1]).ask("And then?", remember=False).text == second.text
    session.turns.clear()
    encoded.clear()
    pairs = [session.compare("What else?") for _ in range(2)]
    assert len(encoded) == passes  # for all tokens; the kept ones were read
    assert all(answer.prefilled < text + more for answer in pairs[1])
    last = replace(session, turns=session.turns[:1])
    assert [answer.text for answer in last.compare("What else?")] == [answer.text for answer in pairs[1]]


def test_a_name_of_a_token_in_a_question_is_text(checkpoints, family, clip):
    session = session_of(checkpoints, family, "--num-frames", "4")
    session.set_video(clip)
    session.ask("".join(MARKS) + "<|im_end|> and <video>?", remember=False)
    ids = session._inputs["input_ids"][0].tolist()
    token = session.tokenizer.convert_tokens_to_ids(session.checkpoint.tokens.video)
    assert ids.count(token) == session.loaded.before.visual + session.loaded.before.newline


def test_options_choose_frames_and_pixels(checkpoints, clip):
    few = session_of(checkpoints, "qwen2_5_vl", "--fps", "1").set_video(clip)
    assert len(few.video.times) == 6 and few.before.visual == 3 * 6 * 6
    small = session_of(checkpoints, "qwen2_5_vl", "--fps", "1", "--max-pixels", "1024").set_video(clip)
    assert small.before.visual == 3 * 4 * 4
    total = session_of(checkpoints, "qwen3_vl", "--total-tokens", "100").set_video(clip)
    assert 50 < total.before.visual <= 100
    for words, text in (
        (("internvl", "--max-pixels", "100"), "frames of one size"),
        (("qwen3_vl", "--tower-dtype", "bfloat16"), "tower-dtype"),
        (("qwen3_vl", "--quantization", "int8"), "quantization"),
        (("qwen3_vl", "--force-sample"), "force-sample"),
        (("qwen3_vl", "--num-frames", "auto"), "num-frames auto"),
        (("qwen3_vl", "--cache", "kept"), "--cache is for checkpoints in LLaVA's layout"),
        (("qwen3_vl", "--conv-template", "plain"), "conv-template"),
        (("llava_onevision", "--tower-reuse", "0.02"), "set tower_reuse=0"),
        (("internvl", "--retention", "100%", "--set", "tower_reuse=0.02"), "set tower_reuse=0"),
        (("llava_onevision", "--set", "method=fastv"), "inside the language model"),
    ):
        with pytest.raises(ValueError, match=text):
            session_of(checkpoints, *words)
    assert session_of(checkpoints, "qwen3_vl", "--tower-reuse", "0.02").compression.tower_reuse == 0.02
    with pytest.raises(ChatError, match="for Qwen-VL"):
        load_session(make_parser().parse_args(["chat", "--total-tokens", "10"]))


def test_a_conversation_that_does_not_fit_is_refused(checkpoints, clip):
    session = session_of(checkpoints, "qwen2_5_vl", "--num-frames", "8", "--no-aot")
    session.set_video(clip)
    session.context_length = 150
    with pytest.raises(ChatError, match="fewer or smaller frames"):
        session.ask("What is there?")
    session.set_retention(0.1)
    assert session.ask("What is there?").new_tokens == 5


def test_chat_prints_json(checkpoints, family, clip, capsys):
    words = ["chat", clip, "--model-path", str(checkpoints(family)), "--max-new-tokens", "3", "--num-frames", "4"]
    assert chat.execute(make_parser().parse_args([*words, "--question", "What?", "--json", "--compare"])) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"]["after"]["visual"] == said["tokens"]["before"]["visual"] // 10
    assert said["uncompressed"]["retention"] == 1 and said["video"]["frames"] == 4


def test_pictures_are_drawn(checkpoints, family, clip, tmp_path):
    pytest.importorskip("matplotlib")
    words = [
        "visualize",
        clip,
        "--model-path",
        str(checkpoints(family)),
        "--num-frames",
        "4",
        "--output",
        str(tmp_path),
    ]
    assert visualize.execute(make_parser().parse_args(words)) == 0
    assert any(tmp_path.iterdir())


def test_what_is_drawn_is_what_is_asked_about(checkpoints, family, clip):
    session = session_of(checkpoints, family, "--num-frames", "8", "--retention", "20%")
    session.set_video(clip)
    session.ask("What?")
    asked, drawn = session._applied.last[0], session.traced()
    visual = asked.kind != 3
    assert torch.equal(asked.frame[visual], drawn.frame[drawn.kind != 3])
    torch.testing.assert_close(asked.tokens[visual], drawn.tokens[drawn.kind != 3])
    assert drawn.frames == len(session.drawn[0]) == len(session.drawn[1])


def test_a_file_of_questions(checkpoints, clip, tmp_path):
    """Two questions about one video; another limit of tokens is another job."""
    questions = tmp_path / "questions.jsonl"
    rows = [{"id": number, "video": clip, "question": text} for number, text in enumerate(("What?", "When?"))]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words, most in (((), 1000), (("--total-tokens", "60"), 60)):
        asked = ["infer", "--input", str(questions), "--output", str(tmp_path / "answers.jsonl")]
        asked += ["--model-path", str(checkpoints("qwen3_vl")), "--max-new-tokens", "3", "--num-frames", "4", *words]
        assert infer.execute(make_parser().parse_args(asked)) == 0
        answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
        assert len(answers) == 2 and all(answer["failure"] is None for answer in answers)
        assert answers[0]["tokens"]["before"]["visual"] <= most
