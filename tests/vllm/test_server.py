"""Servers as people start them: scripts/serve.sh with two copies of the model, and the split deployment."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest

from aot import AOTConfig
from llava.chat.session import ChatSession
from llava.eval.exam.questions import make_exam
from llava.serve.client import ServerError, ask, media_part

pytest.importorskip("vllm", reason="vLLM is not installed; scripts/test_vllm.sh installs it")

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
SMALL = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096")
PATIENCE = 900  # seconds to start, on a busy machine
FRAMES = 16


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path):
    """Address of a server that answers; what it wrote, when it does not."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | QUIET | {"PATH": path, "PYTHONPATH": str(ROOT)}
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=ROOT)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
                with contextlib.suppress(URLError, OSError):
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait(120)


def test_two_copies_answer_many_clients_and_survive_bad_requests(converted, clips, tmp_path):
    port = free_port()
    line = [
        "bash",
        "scripts/serve.sh",
        str(converted),
        "--retention",
        "0.1",
        "--data-parallel",
        "2",
        "--port",
        str(port),
    ]
    paths = list(clips.values())[:8]
    with running([*line, *SMALL, "--trust-request-mm-kwargs"], port, tmp_path / "log") as url:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda path: ask(url, [media_part(path)], "What moves?", max_tokens=8), paths))
        text = ask(url, [], "What moves?", max_tokens=1).prompt_tokens
        # the mark, a line break, ⌊0.1 · 16 · 144⌋ tokens and a newline a frame
        assert {reply.prompt_tokens - text for reply in replies} == {1 + 230 + FRAMES}
        twice = ask(url, [media_part(paths[0])] * 2, "What moves?", max_tokens=1)
        assert twice.prompt_tokens - text == 2 * (1 + 230 + FRAMES)
        (tmp_path / "broken.mp4").write_bytes(b"no video")
        with pytest.raises(ServerError):
            ask(url, [media_part(tmp_path / "broken.mp4")], "What moves?")
        more = {"media_io_kwargs": {"video": {"num_frames": FRAMES + 8}}}
        with pytest.raises(ServerError, match="24 frames and this server takes at most 16"):
            ask(url, [media_part(paths[0])], "What moves?", **more)
        again = ask(url, [media_part(paths[0])], "What moves?", max_tokens=8)
        assert again.text == replies[0].text


def test_split_answers_as_one_process(own, converted, clips, tmp_path):
    """Client, encoding server and a vLLM without our plugin's class, from video files on."""
    tokenizer, model, processor = own.tokenizer, own.model, own.processor
    session = ChatSession(model, tokenizer, processor, 32768, compression=AOTConfig(retention=0.1), max_new_tokens=16)
    items = make_exam(50)[:12]
    wanted = []
    for item in items:
        session.set_video(str(clips[item.clip]))
        answer = session.ask(item.question.text, remember=False)
        wanted.append((answer.text, answer.after.visual))
    ports = free_port(), free_port()
    vllm = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(converted), *SMALL]
    vllm += ["--hf-overrides", '{"architectures": ["LlavaOnevisionForConditionalGeneration"]}', "--port", str(ports[0])]
    vllm += ["--enable-prompt-embeds", "--limit-mm-per-prompt", '{"image": 0, "video": 0}']
    front = [sys.executable, "-m", "llava.serve.encoder_server", "--retention", "0.1", "--port", str(ports[1])]
    front += ["--vllm", f"http://127.0.0.1:{ports[0]}", "--device", "cpu"]
    with running(vllm, ports[0], tmp_path / "vllm"), running(front, ports[1], tmp_path / "front") as url:
        replies = [ask(url, [media_part(clips[item.clip])], item.question.text, max_tokens=16) for item in items]
        with pytest.raises(ServerError, match="context"):
            ask(url, [media_part(clips[items[0].clip])], "What? " * 4000, max_tokens=16)
        assert (
            ask(url, [media_part(clips[items[0].clip])], items[0].question.text, max_tokens=16).text == replies[0].text
        )
    assert [reply.text.strip() for reply in replies] == [text for text, _ in wanted]
    assert {visual for _, visual in wanted} == {230}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"aot": {"retention": 1.5}}, "retention is 1.5; use a number in (0, 1]."),
        ({"aot": {"retention": 0.1}, "mm_video_frames": 4096}, "the server's context holds 4096"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "The vision tower is a clip_vision_model"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(converted, overrides, said):
    """Straight to vLLM, past scripts/serve.sh, which would say most of it sooner."""
    from vllm import EngineArgs

    arguments = EngineArgs(model=str(converted), hf_overrides=overrides, max_model_len=4096)
    with pytest.raises(ValueError) as error:
        arguments.create_engine_config()
    assert said in str(error.value)
