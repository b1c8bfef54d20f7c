"""The session: one encoding a video, live retention, turns, timings."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from aot import AOTConfig
from aot_cli.main import make_parser
from llava.chat.answer import ChatError, TextStream, Tokens, cost, printable, stats
from llava.chat.options import load_session
from llava.chat.prompt import PromptStyle, Sampling, default_prompt_style, default_sampling
from llava.chat.session import ChatSession
from llava.decoders.worker_process import WorkerProcess
from llava.model.long_video import compress_stream, pixel_chunks
from llava.video import VideoError, load_video


@pytest.fixture
def session(loaded):
    tokenizer, model, processor, context = loaded
    return ChatSession(model, tokenizer, processor, context, compression=AOTConfig(), max_new_tokens=6)


@pytest.fixture
def tower_calls(session, monkeypatch):
    tower = session.model.get_vision_tower()
    calls, encode = [], tower.encode

    def counted(pixels, **wanted):
        calls.append(len(pixels))
        return encode(pixels, **wanted)

    monkeypatch.setattr(tower, "encode", counted)
    return calls


def test_video_is_encoded_once_for_many_turns_and_retentions(session, tower_calls, clip, other_clip):
    session.set_video(clip)
    for retention in (0.1, 0.25, 1, 0.5):
        session.set_retention(retention)
        session.ask("What moves?")
    assert tower_calls == [8]
    session.set_video(other_clip)
    session.ask("And here?")
    assert tower_calls == [8, 8]


@pytest.fixture
def read_lengths(session):
    """How many places the language model read at each of its calls."""
    lengths = []
    handle = session.model.get_model().register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(
            kwargs["inputs_embeds"].shape[1] if kwargs.get("inputs_embeds") is not None else 1
        ),
        with_kwargs=True,
    )
    yield lengths
    handle.remove()


@pytest.mark.parametrize("retention", [0.25, 1])
def test_the_next_question_reads_its_text_alone(session, clip, read_lengths, tower_calls, retention):
    """In a conversation and beside it; every answer is that of a session that has read nothing."""
    session.set_video(clip)
    session.set_retention(retention)
    before, turns = 0, []
    for number, question in enumerate(("What moves?", "Where is it?", "Where is it?")):
        read_lengths.clear()
        length = session._prompt(question).shape[1]
        answer = session.ask(question)
        assert read_lengths[0] == answer.prefilled
        if number:
            assert length - before - answer.new_tokens < answer.prefilled <= length - before
            assert answer.timings["compress"] == 0
        else:
            assert answer.prefilled == length - 1 + answer.after.visual + answer.after.newline
        before = length
        fresh = replace(session, turns=list(turns), answers=[])
        assert fresh.ask(question).text == answer.text and (answer.after, answer.bound) == (
            fresh.answers[0].after,
            fresh.answers[0].bound,
        )
        turns = list(session.turns)
    session.turns.clear()
    answer = session.ask("Who is it?", remember=False)
    assert answer.prefilled <= length and answer.after.visual == int(288 * retention)
    assert session.ask("Who is it?", remember=False).prefilled == 1  # the last token of the prompt
    session.forget()
    text = session._prompt("Who is it?").shape[1] - 1
    assert session.ask("Who is it?").prefilled == text + answer.after.visual + answer.after.newline
    assert tower_calls == [8]


def test_what_was_read_of_other_tokens_is_not_gone_on_from(session, clip, other_clip, monkeypatch):
    session.set_video(clip)
    whole = session.ask("What moves?", remember=False).prefilled
    # each of two settings goes on by itself, and a third takes the place of the older one
    every, few = session.compare("What moves?")
    session.turns.clear()
    assert every.prefilled > 288 and few.prefilled == 1
    assert [answer.prefilled for answer in session.compare("What moves?")] == [1, 1]
    session.turns.clear()
    session.set_retention(0.2)
    session.ask("What moves?", remember=False)
    assert session.compare("What moves?")[0].prefilled > 288
    session.turns.clear()
    # nor of another video, nor in a method that drops tokens on the way, nor after an answer that was stopped
    session.set_retention(0.1)
    session.set_video(other_clip)
    assert session.ask("What moves?", remember=False).prefilled == whole
    session.compression = AOTConfig(method="fastv", retention=0.75, options={"layer": 1})
    first, second = (session.ask("What moves?", remember=False) for _ in range(2))
    assert first.prefilled == second.prefilled > 288 and first.text == second.text
    session.set_retention(0.1)
    session.ask("What moves?", remember=False)

    def stop(text):
        raise KeyboardInterrupt

    assert session.ask("What moves?", on_text=stop, remember=False).stopped
    assert session.ask("What moves?", remember=False).prefilled == whole


def test_a_long_video_is_compressed_while_it_is_read(session, tower_calls, clip):
    """16 of 20 frames a chunk; the tokens are those of the frames given at once, and of each retention in force."""
    session.sampling, session.stream_above = Sampling(20, None, False), 19
    loaded = session.set_video(clip)
    assert tower_calls == [16, 4] and loaded.streamed and loaded.video.decoder == "pyav"
    frames = load_video(clip, num_frames=20, decoder="pyav")
    np.testing.assert_array_equal(loaded.video.times, frames.times)
    session.model.config.aot = AOTConfig().to_dict()
    whole = compress_stream(session.model, pixel_chunks(frames.frames, session.image_processor))
    assert torch.equal(loaded.features.tokens, whole.tokens)
    answer = session.ask("What moves?")
    assert (answer.frames, answer.before.visual, answer.before.newline, answer.after.visual) == (20, 720, 20, 72)
    assert answer.timings["tower"] > 0 and answer.timings["compress"] > 0
    session.ask("And now?")
    tower_calls.clear()
    session.set_retention(0.2)
    assert session.ask("And now?").after.visual == 144 and tower_calls == [16, 4]
    session.set_retention(1)
    assert session.ask("And now?").after.visual == 720 and tower_calls[2:] == [20]
    session.set_retention(0.2)
    assert session.ask("And now?").after.visual == 144 and tower_calls[3:] == [16, 4]
    assert [question for question, _ in session.turns] == ["What moves?"] + ["And now?"] * 4


def test_a_video_is_streamed_only_above_the_limit_and_where_it_can_be(session, clip):
    session.sampling, session.stream_above = Sampling(20, None, False), 20
    assert not session.set_video(clip).streamed
    session.sampling = Sampling(64, 5.0, False)  # at most 64, and the clip has 10 at 5 a second
    assert not session.set_video(clip).streamed and len(session.loaded.video.times) == 10
    session.stream_above = 9
    assert session.set_video(clip).streamed
    for other in (None, AOTConfig(clips="dynamic"), AOTConfig(method="uniform"), AOTConfig.preset("released")):
        session.compression = other
        assert not session.set_video(clip).streamed


def test_a_long_video_that_fails_leaves_the_session_as_it_was(session, clip, tmp_path, monkeypatch):
    """The decoder dies among the frames, or the tower does: one error, and no decoder stays behind."""
    session.sampling, session.stream_above = Sampling(40, None, False), 9
    before = session.set_video(clip)
    children = []
    start = WorkerProcess.__init__

    def watched(child, *arguments, **settings):
        children.append(child)
        start(child, *arguments, **settings)

    monkeypatch.setattr(WorkerProcess, "__init__", watched)
    encode = session.model.encode_video

    def broken(pixels):
        raise ZeroDivisionError("the tower breaks")

    monkeypatch.setattr(session.model, "encode_video", broken)
    with pytest.raises(ZeroDivisionError, match="the tower breaks"):
        session.set_video(clip)

    def last(pixels):
        children[-1].kill()
        return encode(pixels)

    monkeypatch.setattr(session.model, "encode_video", last)
    with pytest.raises(VideoError, match="gave up") as caught:
        session.set_video(clip)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert len(children) == 2 and all(child.process.poll() is not None for child in children)
    assert session.loaded is before


def test_token_counts_follow_retention(session, clip):
    session.set_video(clip)
    visual = 8 * 6 * 6
    for retention, kept in ((0.1, 28), (0.25, 72), (1, visual), (0.5, 144)):
        session.set_retention(retention)
        answer = session.ask("What moves?")
        assert (answer.before.visual, answer.before.newline) == (visual, 8)
        assert (answer.after.visual, answer.after.newline) == (kept, 8)
        assert (answer.settings is None) == (retention == 1)


def test_a_number_of_tokens_holds_beside_the_share(session, clip):
    """8 frames of 6x6, 288 tokens: the smaller bound, the session's own settings kept, and off again."""
    session.set_video(clip)
    counts = []
    for set_budget, value in (
        *((session.set_max_tokens, 20), (session.set_retention, 0.05), (session.set_retention, 1)),
        *((session.set_max_tokens, 500), (session.set_max_tokens, None), (session.set_retention, 0.25)),
    ):
        set_budget(value)
        answer = session.ask("What moves?")
        counts.append((answer.after.visual, answer.bound))
    kept = [(20, "max_tokens"), (14, "retention"), (20, "max_tokens"), (288, "all"), (288, "all"), (72, "retention")]
    assert counts == kept and session.compression == AOTConfig(retention=0.25)
    for most in (0, 2.5, "9"):
        with pytest.raises(ValueError, match="max_tokens"):
            session.set_max_tokens(most)
    assert session.compression == AOTConfig(retention=0.25)


def test_a_preset_with_counts_of_its_own_takes_no_number_of_tokens(loaded):
    tokenizer, model, processor, context = loaded
    released = AOTConfig.preset("released", num_anchors=18)
    session = ChatSession(model, tokenizer, processor, context, compression=released)
    session.set_max_tokens(None)
    with pytest.raises(ValueError, match="leave max_tokens out"):
        session.set_max_tokens(20)
    assert session.compression == released


def test_a_number_of_tokens_holds_in_a_video_compressed_while_it_is_read(loaded, clip):
    tokenizer, model, processor, context = loaded
    session = ChatSession(
        model, tokenizer, processor, context, compression=AOTConfig(max_tokens=50), max_new_tokens=2,
        sampling=Sampling(20, None, False), stream_above=19,
    )  # fmt: skip
    assert session.set_video(clip).streamed
    answer = session.ask("What moves?")
    assert (answer.after.visual, answer.bound, answer.before.visual) == (50, "max_tokens", 720)
    prompt = session._prompt("What moves?").shape[1]
    session.context_length = prompt + 50 + answer.after.newline + 2 - 1
    with pytest.raises(ChatError, match=f"up to {prompt + 50 + answer.after.newline + 2} tokens"):
        session.ask("What moves?", remember=False)


def test_answers_are_those_of_the_plain_call(session, clip):
    """The streamed text equals what generate returns for pixels and prompt given at once."""
    session.set_video(clip)
    pieces = []
    answer = session.ask("What moves?", on_text=pieces.append)
    assert "".join(pieces).strip() == answer.text
    pixels = session.image_processor.preprocess(session.loaded.video.frames)["pixel_values"]
    session.turns.clear()
    tokens = session.model.generate(
        session._prompt("What moves?"),
        images=[pixels],
        modalities=["video"],
        max_new_tokens=6,
        do_sample=False,
    )
    assert printable(session.tokenizer.decode(tokens[0], skip_special_tokens=True)).strip() == answer.text
    assert answer.text  # the random model says something


def test_turns_are_told_to_the_model_and_forgotten_with_the_video(session, clip, other_clip):
    session.set_video(clip)
    first = session.ask("First question")
    text = session.tokenizer.decode([i for i in session._prompt("Second question")[0].tolist() if i >= 0])
    assert text.index("First question") < text.index(first.text) < text.index("Second question")
    session.set_video(other_clip)
    assert session.turns == []


def test_compare_leaves_the_settings_as_they_were(session, clip):
    session.set_video(clip)
    whole, reduced = session.compare("What moves?")
    assert whole.settings is None and whole.after == whole.before
    assert reduced.after.visual == 28 and session.compression == AOTConfig()
    assert len(session.turns) == 1


def test_timings_and_stats_line(session, clip):
    session.set_video(clip)
    answer = session.ask("What moves?")
    assert all(answer.timings[stage] > 0 for stage in ("decode", "tower", "compress", "first_token", "total"))
    assert answer.timings["compress"] <= answer.timings["first_token"] <= answer.timings["total"]
    assert answer.peak_memory["ram"] > 50
    line = " · ".join(stats(answer))
    for part in (
        "8 frames",
        "288 → 28 tokens",
        "9.72 %",
        "decode",
        "tower",
        "compression",
        "first token",
        "MiB",
    ):
        assert part in line
    assert "\n" not in line


def test_what_the_tower_reused_stands_in_every_answer(session, clip):
    session.set_video(clip)
    plain = session.ask("What moves?")
    assert plain.tower_flops.spent == plain.tower_flops.whole > 0 and "FLOPs" not in " · ".join(stats(plain))
    session.set_retention(1)
    assert session.compression is None
    session = replace(session, compression=AOTConfig(tower_reuse=1.0))
    session.set_video(clip)
    whole, reduced = session.compare("What moves?")
    spent, all_ = reduced.tower_flops
    assert 0 < spent < all_ == plain.tower_flops.whole and whole.tower_flops == reduced.tower_flops
    assert whole.settings["tower_reuse"] == reduced.settings["tower_reuse"] == 1.0 and whole.after == whole.before
    assert cost(reduced)["tower_flops"] == {"spent": spent, "whole": all_}
    assert f"({100 * spent / all_:.0f} % of its FLOPs)" in " · ".join(stats(reduced))
    session.sampling, session.stream_above = Sampling(20, None, False), 19
    assert session.set_video(clip).streamed and session.loaded.tower_flops.spent < session.loaded.tower_flops.whole
    session.set_retention(1)
    assert session.compression == AOTConfig(retention=1.0, tower_reuse=1.0)


def test_failed_video_leaves_the_session_as_it_was(session, clip, tmp_path):
    with pytest.raises(VideoError):
        session.set_video(str(tmp_path / "none.mp4"))
    with pytest.raises(ChatError, match="no video"):
        session.ask("What moves?")
    before = session.set_video(clip)
    with pytest.raises(VideoError):
        session.set_video(str(tmp_path / "none.mp4"))
    assert session.loaded is before


def test_bad_retention_changes_nothing(session, clip):
    session.set_video(clip)
    for retention in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="retention"):
            session.set_retention(retention)
    assert session.compression == AOTConfig()


def test_compression_can_be_turned_on_for_a_video_encoded_without(loaded, clip):
    tokenizer, model, processor, context = loaded
    session = ChatSession(model, tokenizer, processor, context, max_new_tokens=2)
    session.set_video(clip)
    assert session.ask("What moves?").retention == 1
    session.set_retention(0.1)
    assert session.ask("What moves?").after.visual == 28


def test_too_long_a_conversation_is_refused(session, clip):
    session.set_video(clip)
    with pytest.raises(ChatError, match="takes 4096"):
        session.ask("word " * 5000)


def test_newlines_that_do_not_stay_take_no_room(session, clip, monkeypatch):
    """8 frames of 6x6 with a newline a row: 28 tokens and 8 newlines at 10 %, 288 and 48 in all."""
    monkeypatch.setattr(session.model.config, "mm_newline_position", "grid")
    session.set_video(clip)
    prompt = session._prompt("What moves?").shape[1]
    monkeypatch.setattr(session, "context_length", prompt + 28 + 8 + 6)
    assert session.ask("What moves?").after == Tokens(28, 8)
    session.forget()
    for refused in ("all", "row"):  # the second is not known beforehand
        session.compression = AOTConfig(newlines=refused)
        with pytest.raises(ChatError, match=f"up to {prompt + 28 + 48 + 6} tokens"):
            session.ask("What moves?")


def test_empty_question_and_unknown_template(session, loaded, clip):
    session.set_video(clip)
    with pytest.raises(ChatError, match="empty"):
        session.ask("  ")
    with pytest.raises(ChatError, match="no UTF-8"):
        session.ask("What moves \udce9?")
    with pytest.raises(ChatError, match="template"):
        ChatSession(*(loaded[i] for i in (1, 0, 2, 3)), template="vicuna")


def test_interrupt_keeps_what_was_said(session, clip):
    session.set_video(clip)

    def stop(_):
        raise KeyboardInterrupt

    answer = session.ask("What moves?", on_text=stop)
    assert answer.stopped and answer.new_tokens < 6


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, Sampling(32, None, False)),
        ({"mm_newline_position": "grid"}, Sampling(64, 1.0, True)),
        ({"mm_newline_position": "grid", "add_time_instruction": False}, Sampling(64, 1.0, False)),
        ({"mm_newline_position": "grid", "force_sample": True}, Sampling(64, None, True)),
        ({"add_time_instruction": True, "force_sample": False}, Sampling(32, None, True)),
        ({"mm_newline_position": "frame", "mm_video_frames": 16}, Sampling(16, None, False)),
    ],
)
def test_sampling_by_family(fields, expected):
    class Config:
        pass

    config = Config()
    config.__dict__.update(fields)
    assert default_sampling(config) == expected


def test_manner_of_small_models(session, clip):
    class Config:
        chat_suffix = "\nAnswer briefly."
        chat_single_turn = True

    session.prompt_style = default_prompt_style(Config())
    session.set_video(clip)
    session.ask("First question?")
    text = session.tokenizer.decode([i for i in session._prompt(" Second question? ")[0].tolist() if i >= 0])
    assert "\nSecond question?\nAnswer briefly." in text and "First question" not in text
    manner = PromptStyle("\nAnswer briefly.")
    assert manner.format("Describe the video.") == "Describe the video."
    choice = "Which?\nA. red\nB. blue?"
    assert manner.format(choice) == choice
    assert default_prompt_style(object()) == PromptStyle()


def test_times_are_told_where_the_family_expects_it(session, clip):
    session.sampling = Sampling(8, None, True)
    session.set_video(clip)
    text = session.tokenizer.decode([i for i in session._prompt("What moves?")[0].tolist() if i >= 0])
    assert "The video lasts for 2.00 seconds, and 8 frames are uniformly sampled" in text
    assert text.index("0.00s,0.27s") < text.index("What moves?")


def test_a_model_cannot_steer_the_terminal():
    assert printable("a\x1b[31mb\x00\r\x9b\n\tc é") == "a[31mb\n\tc é"


def test_stream_waits_for_whole_characters(session):
    ids = session.tokenizer("é→").input_ids
    said = io.StringIO()
    stream = TextStream(session.tokenizer, said.write)
    stream.put(torch.zeros(1, 0, dtype=torch.long))
    seen = []
    for token in ids:
        stream.put(torch.tensor([token]))
        seen.append(said.getvalue())
    stream.end()
    assert len(ids) == 5 and seen == ["", "é", "é", "é", "é→"]
    assert np.isfinite(stream.first)


def test_settings_are_validated_once_for_all_questions(session, clip, monkeypatch):
    built = []
    validate = AOTConfig.__post_init__
    monkeypatch.setattr(AOTConfig, "__post_init__", lambda config: (built.append(config), validate(config)))
    session.set_video(clip)
    session.ask("What moves?")
    session.ask("And now?")
    assert built == []
    session.set_retention(0.2)
    session.ask("And now?")
    assert len(built) == 1


def test_more_frames_at_the_tokens_of_the_usual_ones(checkpoint, clip):
    """Four times the eight frames of the checkpoint, 36 tokens each, at any share; what does not go with it is said."""

    def session_of(*words):
        return load_session(make_parser().parse_args(["chat", "--model-path", checkpoint, "--device", "cpu", *words]))

    for words, kept in (((), 28), (("--retention", "100%"), 288), (("--max-tokens", "100"), 100)):
        session = session_of("--num-frames", "auto", "--max-new-tokens", "4", *words)
        assert len(session.set_video(clip).video.times) == 32
        answer = session.ask("What moves?")
        assert answer.after.visual == kept and answer.bound == "max_tokens" and answer.before.visual == 32 * 36
    for words in (("--fps", "1"), ("--force-sample",)):
        with pytest.raises(ChatError, match="chooses the frames itself"):
            session_of("--num-frames", "auto", *words)
