"""The command line: JSON, commands, exit codes and one-sentence errors."""

import io
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from aot import AOTConfig
from aot_cli.main import main as aot_main
from aot_cli.main import make_parser
from llava.chat import options
from llava.serve.cli import main

from .conftest import picture, write_checkpoint, write_video


@pytest.fixture
def say(monkeypatch):
    """Puts lines on standard input, as a pipe would."""
    return lambda *lines: monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))


@pytest.fixture
def base(checkpoint, clip) -> list[str]:
    return ["--model-path", checkpoint, "--video-file", clip, "--max-new-tokens", "4", "--device", "cpu"]


def failure(capsys, arguments) -> str:
    """Standard error of a run that must fail with one sentence and no answer."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and len(err.strip().splitlines()) == 1
    return err


def test_json_is_one_object_with_everything(capsys, base, checkpoint, clip):
    assert main([*base, "--question", "What moves?", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    result = json.loads(out)
    assert set(result) == {
        *("question", "answer", "model", "video", "settings", "tokens", "retention", "timings_ms"),
        *("bound", "peak_memory_mib", "versions", "note", "tower_flops"),
    }
    assert result["question"] == "What moves?" and isinstance(result["answer"], str)
    assert AOTConfig.from_dict(result["settings"]) == AOTConfig()
    assert result["tokens"]["before"] == {"visual": 288, "newline": 8, "total": 296}
    assert result["tokens"]["after"] == {"visual": 28, "newline": 8, "total": 36}
    assert result["retention"] == pytest.approx(28 / 288) and result["bound"] == "retention"
    assert set(result["timings_ms"]) == {"decode", "tower", "compress", "first_token", "total"}
    assert result["video"]["frames"] == len(result["video"]["times_s"]) == 8
    assert result["video"]["path"] == clip and result["model"]["path"] == checkpoint
    assert (result["model"]["dtype"], result["model"]["tower_dtype"]) == ("torch.float32", "torch.float32")
    assert result["versions"]["torch"] and result["peak_memory_mib"]["ram"] > 0


def test_the_tower_dtype_is_taken_and_written_with_the_answer(capsys, base):
    assert main([*base, "--tower-dtype", "bfloat16", "--question", "What moves?", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert (model["dtype"], model["tower_dtype"]) == ("torch.float32", "torch.bfloat16")


def test_more_frames_than_the_model_is_made_for_are_told(capsys, base):
    assert main([*base, "--num-frames", "auto", "--question", "What moves?"]) == 0
    assert "It looks at 32 frames and is made for 8; compare" in capsys.readouterr().err


def test_a_long_video_is_streamed_and_the_person_told(capsys, base, say):
    long = [*base, "--num-frames", "20", "--stream-above", "19"]
    assert main([*long, "--question", "What moves?", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["video"]["streamed"] and result["tokens"]["after"]["visual"] == 72
    say("What moves?", "/retention 0.2", "And here?", "/stats")
    assert main(long) == 0
    out, err = capsys.readouterr()
    assert "720 visual tokens, compressed while read since it has more than 19" in err
    assert "720 → 72" in out and "720 → 144" in out
    for whole in ([*long, "--compare"], [*base, "--num-frames", "20"]):
        say("What moves?")
        assert main(whole) == 0 and "compressed while" not in capsys.readouterr().err
    assert "--stream-above" in failure(capsys, [*base, "--stream-above", "0"])


@pytest.mark.parametrize("off", [["--retention", "1"], ["--no-aot"]])
def test_json_without_reduction(capsys, base, off):
    assert main([*base, "--question", "What moves?", "--json", *off]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"] is None and result["tokens"]["after"] == result["tokens"]["before"]


def test_tower_reuse_with_every_token(capsys, base):
    assert main([*base, "--question", "What moves?", "--json", "--retention", "1", "--tower-reuse", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["tower_reuse"] == 1 and result["retention"] == 1
    assert result["tower_flops"]["spent"] < result["tower_flops"]["whole"]


@pytest.mark.parametrize("more", [["--max-tokens", "21"], ["--retention", "1", "--set", "max_tokens=21"]])
def test_a_number_of_tokens_alone(capsys, base, more, say):
    assert main([*base, "--question", "What moves?", "--json", *more]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tokens"]["after"]["visual"], result["bound"]) == (21, "max_tokens")
    say("/max_tokens 30", "What moves?", "/retention 5%", "What moves?", "/max_tokens off", "What moves?")
    assert main([*base, *more]) == 0
    out, err = capsys.readouterr()
    assert out.count("288 → 30 tokens") == 1 and out.count("288 → 14 tokens") == 2
    assert "retention 10.4 % (max_tokens)" in out and out.count("(max_tokens)") == 1
    assert "100 % of the visual tokens, but no more than 30, are kept" in out + err


def test_json_with_comparison_preset_and_settings(capsys, base):
    extra = ["--preset", "paper", "--set", "num_anchors=18", "--set", "inter_frame=false", "--compare"]
    assert main([*base, "--question", "What moves?", "--json", *extra]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"] == AOTConfig.preset("paper", num_anchors=18, inter_frame=False).to_dict()
    assert result["uncompressed"]["settings"] is None and result["uncompressed"]["retention"] == 1


def test_chat_over_a_pipe(capsys, base, other_clip, say):
    lines = [
        "What moves?",
        "",
        "/retention 0.5",
        "And now?",
        "/stats",
        "/help",
        f"/video {other_clip}",
        "Here?",
    ]
    say(*lines, "/exit", "never asked")
    assert main(base) == 0
    out = capsys.readouterr().out
    costs = [line for line in out.splitlines() if "first token" in line and "frames" in line]
    assert [line.split(" · ")[1].split(" (")[0] for line in costs] == [
        "288 → 28 tokens",
        "288 → 144 tokens",
        "288 → 144 tokens",
    ]
    assert "/retention R" in out and "And now?" in out  # /help and the table of /stats
    assert "\x1b" not in out and "never asked" not in out


def test_chat_answers_before_a_failed_line_but_not_after(capsys, base, say):
    say("What moves?", "/video /no/such.mp4", "What moves?")
    assert main(base) == 1
    out, err = capsys.readouterr()
    assert out.count("first token") == 1
    assert "There is no video at /no/such.mp4" in err


@pytest.mark.parametrize(
    "line, expected",
    [
        ("/retention 2", "retention"),
        ("/retention", "/retention needs a share"),
        ("/max_tokens", "/max_tokens needs a number"),
        ("/max_tokens 10%", "/max_tokens needs a number"),
        ("/max_tokens 0", "max_tokens is 0; use at least 1"),
        ("/video", "/video needs the path"),
        ("/dance", "no command /dance"),
        ("/stats", "no answers yet"),
    ],
)
def test_bad_commands(capsys, base, say, line, expected):
    say(line)
    assert main(base) == 1
    out, err = capsys.readouterr()
    assert out == "" and expected in err.splitlines()[-1]


def test_questions_without_a_video_are_refused(capsys, checkpoint, say):
    say("What moves?")
    assert "no video" in failure(capsys, ["--model-path", checkpoint])


@pytest.mark.parametrize("retention", ["0", "-0.1", "1.5", "nan"])
def test_retention_outside_its_range(capsys, base, retention):
    assert "retention" in failure(capsys, [*base, "--question", "?", f"--retention={retention}"])


@pytest.mark.parametrize(
    "extra, expected",
    [
        (["--set", "colour=3"], "Unknown setting colour"),
        (["--preset", "best"], "Unknown preset"),
        (["--preset", "released", "--retention", "0.1"], "token counts of their own"),
        (["--no-aot", "--retention", "0.5"], "contradict"),
        (["--no-aot", "--max-tokens", "50"], "--max-tokens 50 contradict"),
        (["--preset", "released", "--max-tokens", "50"], "leave max_tokens out"),
        (["--max-tokens", "0"], "max_tokens is 0; use at least 1"),
        (["--tower-reuse", "2"], r"tower_reuse is 2.0; use a number in [0, 1]"),
        (["--no-aot", "--tower-reuse", "0"], "--tower-reuse 0 contradict"),
        (["--num-frames", "0"], "num_frames"),
        (["--fps", "-1"], "fps"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--temperature", "-1"], "0 or more"),
        (["--conv-template", "vicuna"], "template"),
        (["--device", "abacus"], "no device"),
    ],
)
def test_settings_that_make_no_sense(capsys, base, extra, expected):
    assert expected in failure(capsys, [*base, "--question", "What moves?", *extra])


def test_bad_videos(capsys, checkpoint, clip, tmp_path):
    files = {"zero.mp4": b"", "text.mp4": b"words, not pictures\n" * 99}
    with open(clip, "rb") as file:
        files["cut.mp4"] = file.read()[:3000]
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
        failure(capsys, ["--model-path", checkpoint, "--video-file", str(tmp_path / name), "--question", "?"])
    missing = ["--model-path", "/not/loaded", "--video-file", str(tmp_path / "no.mp4"), "--question", "?"]
    assert "no.mp4" in failure(capsys, missing)  # said before any time goes into the model


@pytest.mark.parametrize("kind", ["video", "picture"])
def test_one_frame_is_one_frame(capsys, checkpoint, tmp_path, kind):
    """Nothing is copied, and what is saved is saved on one frame's 36 tokens."""
    if kind == "video":
        path = write_video(tmp_path / "one.mp4", frames=1)
    else:
        path = str(tmp_path / "one.png")
        Image.fromarray(picture(3, 64, 96)).save(path)
    assert main([path, "--model-path", checkpoint, "--question", "What?", "--json", "--max-new-tokens", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["video"]["frames"] == len(result["video"]["times_s"]) == 1
    assert result["tokens"]["before"] == {"visual": 36, "newline": 1, "total": 37}
    assert result["tokens"]["after"]["visual"] == 3


def test_the_note_of_a_model_is_told_and_written(capsys, clip, tmp_path):
    model = write_checkpoint(tmp_path / "tiny", chat_note="Knows nothing.")
    base = [clip, "--model-path", model, "--question", "What?", "--max-new-tokens", "2"]
    assert main(base) == 0 and "Knows nothing." in capsys.readouterr().err
    assert main([*base, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["note"] == "Knows nothing." and err == ""


def test_words_without_a_slash(capsys, base, say):
    say("help", "/retention 25%", "/clear", "quit", "never asked")
    assert main(base) == 0
    out, err = capsys.readouterr()
    assert "/retention R" in out and "never asked" not in out and "first token" not in out
    assert "25 % of the visual tokens" in err and "Forgot 0 questions; the video stays." in err


def test_bad_checkpoints(capsys, clip, tmp_path):
    def refused(path) -> str:
        return failure(capsys, ["--model-path", str(path), "--video-file", clip, "--question", "?", "--json"])

    assert "checkpoint folder" in refused(tmp_path / "a" / "b")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    save_file({"weight": torch.zeros(1)}, other / "model.safetensors")
    assert "cannot load" in refused(other)
    cut = tmp_path / "cut"
    write_checkpoint(cut)
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert str(cut) in refused(cut)
    narrow = tmp_path / "narrow"
    write_checkpoint(narrow)
    config = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))
    assert str(narrow) in refused(narrow)


def test_options_that_need_each_other(capsys, checkpoint, clip):
    assert "--question" in failure(capsys, ["--model-path", checkpoint, "--video-file", clip, "--json"])
    assert "needs a video" in failure(capsys, ["--model-path", checkpoint, "--question", "?"])
    assert "named twice" in failure(capsys, [clip, "--video-file", clip, "--question", "?"])


def test_unknown_option_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--colour"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_embedded_checkpoint_is_the_default(monkeypatch, tmp_path):
    chosen = make_parser().parse_args(["chat"])
    monkeypatch.setattr("llava.utils._PACKAGE", tmp_path / "llava")
    with pytest.raises(ValueError, match="--model-path"):
        options.model_path(chosen)
    for root in (tmp_path / "llava", tmp_path):  # installed; a checkout, which goes first
        (root / "checkpoints" / "aot-tiny").mkdir(parents=True)
        assert options.model_path(chosen) == str(root / "checkpoints" / "aot-tiny")


def test_console_script(capsys, tmp_path):
    assert aot_main([]) == 0 and "chat" in capsys.readouterr().out
    assert aot_main(["dance"]) == 2 and "no command" in capsys.readouterr().err
    assert aot_main(["clip", str(tmp_path / "clip.mp4"), "--seed", "3"]) == 0
    assert (tmp_path / "clip.mp4").stat().st_size > 0 and "?" in capsys.readouterr().out
    assert aot_main(["clip", str(tmp_path / "clip.mp4")]) == 1 and "--force" in capsys.readouterr().err
    assert aot_main(["clip", str(tmp_path / "clip.mp4"), "--force"]) == 0
    assert aot_main(["clip", str(tmp_path / "none" / "clip.mp4")]) == 1


def test_module_in_a_process_of_its_own(base):
    command = [sys.executable, "-m", "llava.serve.cli", *base, "--question", "What moves?", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["tokens"]["after"]["visual"] == 28
    failed = subprocess.run([*command, "--retention", "7"], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1 and failed.stdout == "" and len(failed.stderr.strip().splitlines()) == 1
