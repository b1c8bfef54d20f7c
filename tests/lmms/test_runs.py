"""Whole runs of `python -m lmms_eval`, offline: stock wrappers and ours, one process and two, killed and resumed.

The benchmarks are lmms-eval's own tasks on small stand-ins for their data. About a minute and a half on two cores.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

pytest.importorskip("lmms_eval")

from lmms_eval.models import get_model

from aot_tiny.shapes.clips import write_clip
from llava.eval.lmms.results import read_outcome

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = "videomme,mlvu_dev,mvbench,egoschema_subset,longvideobench_val_v"
TASKS = f"aot_clips_open,aot_clips_choice,{BUILT_IN}"
QUESTIONS = 2 + 2 + 2 + 2 + 20 + 2 + 2  # with --limit 2; MVBench's twenty tasks have one question each here
EPISODIC = "mvbench_episodic_reasoning"  # folders of frames, which the stock llava_onevision cannot read
# the tasks of aot_more but Vinoground, and the score of lmms-eval that is the share of right replies: of 100 or of 1
MORE = {
    "videomme_v2": ("videomme_v2_overall_acc", 100),
    "lvbench": ("lvbench_score", 1),
    "tempcompass_multi_choice": ("avg_accuracy", 100),
    "tempcompass_yes_no": ("avg_accuracy", 100),
    "tempcompass_caption_matching": ("avg_accuracy", 100),
    "mmvu_val": ("accuracy", 100),
    "videoevalpro_mcq": ("videoevalpro_mcq_score", 100),
    "cgbench": ("cgbench_accuracy", 100),
    "longtimescope": ("timescope_perception_score", 100),
}
CPU = "max_frames_num=4"
STOCK = f"{CPU},device_map=auto,conv_template=qwen_1_5"


@dataclass(frozen=True)
class Site:
    """Where runs find their data and leave their results."""

    hub: Path
    home: Path
    runs: Path

    def start(
        self, name: str, model: str, arguments: str, tasks: str, *, ranks: int = 1, limit: int = 2,
        include: Path = ROOT / "lmms_eval_tasks",
    ) -> subprocess.Popen:  # fmt: skip
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        output = self.runs / name
        output.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, *launcher, "-m", "lmms_eval", "--model", model, "--device", "cpu", "--batch_size", "1",
            "--model_args", f"pretrained={ROOT / 'checkpoints' / 'aot-tiny'},{arguments}",
            "--tasks", tasks, "--include_path", str(include), "--limit", str(limit),
            "--output_path", str(output), "--log_samples",
        ]  # fmt: skip
        settings = {"HF_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        log = (output / "log.txt").open("a")
        return subprocess.Popen(
            command, cwd=self.hub, env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT
        )

    def run(self, name: str, *arguments, **options) -> dict[tuple[str, int], dict]:
        """Rows of samples by task and document of a run that must succeed."""
        code = self.start(name, *arguments, **options).wait(timeout=900)
        assert code == 0, self.log(name)[-3000:]
        return self.rows(name)

    def log(self, name: str) -> str:
        return (self.runs / name / "log.txt").read_text()

    def rows(self, name: str) -> dict[tuple[str, int], dict]:
        found = {}
        for path in (self.runs / name).rglob("*_samples_*.jsonl"):
            for line in path.read_text().split("\n")[:-1]:
                row = json.loads(line)
                key = path.stem.split("_samples_")[1], row["doc_id"]
                assert key not in found, f"{key} twice"
                found[key] = row
        return found

    def results(self, name: str) -> dict:
        (path,) = (self.runs / name).rglob("*_results.json")
        return json.loads(path.read_text())


def reply(row: dict) -> str:
    said = row["filtered_resps"]
    return said[0] if isinstance(said, list) else said


def records(store: Path) -> list[dict]:
    """Every line that was ever put into a store."""
    lines = [line for path in store.glob("answers-*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).with_name("stand_in.py"))
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    top = tmp_path_factory.mktemp("lmms")
    stand_in.make_benchmarks(top / "hub", top / "home")
    return Site(top / "hub", top / "home", top / "runs")


@pytest.fixture(scope="module")
def runs(site):
    """Rows of one run by each of the four model ids, and of one on odd questions."""
    write_clip(site.hub / "a.mp4", 900030)  # a yellow square
    write_clip(site.hub / "b.mp4", 900005)  # none: alone it is taken for something else
    (site.hub / "broken.mp4").write_bytes((site.hub / "a.mp4").read_bytes()[:2000])
    odd = "llava_onevision_aot", f"{CPU},retention=0.25,store={site.runs / 'odd-store'}", "odd"
    listed = yaml.safe_load((ROOT / "lmms_eval_tasks" / "groups" / "aot_mvbench.yaml").read_text())["task"]
    readable = TASKS.replace("mvbench", ",".join(task for task in listed if task != EPISODIC))
    wanted = {
        "stock-ov": ("llava_onevision", STOCK, readable),
        "stock-vid": ("llava_vid", STOCK, TASKS),
        "ov": ("llava_onevision_aot", f"{CPU},retention=1,store={site.runs / 'ov-store'}", TASKS),
        "vid": ("llava_vid_aot", f"{CPU},retention=0.25", "aot_clips,aot_paper,aot_mlvu"),
    }
    with ThreadPoolExecutor(2) as pool:
        started = {name: pool.submit(site.run, name, *arguments) for name, arguments in wanted.items()}
        started["odd"] = pool.submit(site.run, "odd", *odd, include=Path(__file__).with_name("odd"), limit=8)
        return {name: run.result() for name, run in started.items()}


def test_every_wrapper_answers_every_question(runs):
    for name in ("stock-ov", "stock-vid", "ov"):
        assert len(runs[name]) == QUESTIONS - (name == "stock-ov")
        assert all(isinstance(reply(row), str) for row in runs[name].values())
    assert len({task for task, _ in runs["ov"]}) == 26


def test_our_uncompressed_answers_are_the_stock_wrappers(runs):
    assert {key: reply(row) or "[empty]" for key, row in runs["stock-ov"].items()} == {
        key: reply(row) for key, row in runs["ov"].items() if key[0] != EPISODIC
    }
    graded = ("videomme_perception_score", "score", "accuracy")  # not LongVideoBench: its grader guesses
    for key, row in runs["stock-ov"].items():
        if "egoschema" not in key[0]:
            assert [row.get(name) for name in graded] == [runs["ov"][key].get(name) for name in graded]


def test_our_wrappers_ask_what_the_stock_ones_ask(runs):
    """Prompts depend on the model id; Video-MME has one of its own for llava_vid."""
    for name in ("ov", "vid"):
        for key in runs[name].keys() & runs[f"stock-{name}"].keys():
            assert runs[name][key]["input"] == runs[f"stock-{name}"][key]["input"], key
    prompts = [runs[name]["videomme", 0]["input"] for name in ("stock-ov", "stock-vid")]
    assert prompts[0] != prompts[1] and prompts[1].endswith("The best answer is:")


def test_rows_say_what_each_question_cost(runs):
    for row in runs["vid"].values():
        (cost,) = row["token_counts"]
        assert cost["settings"]["aot"]["retention"] == 0.25 and cost["failure"] is None
        assert cost["retention"]["visual"] == pytest.approx(0.25) and cost["tokens"]["frames"] > 0
        assert cost["seconds"]["first_token"] > 0
    for row in runs["ov"].values():
        assert row["token_counts"][0]["retention"] == {"visual": 1.0, "with_newlines": 1.0}


def test_groups_hold_their_benchmarks(site, runs):
    results = site.results("vid")
    assert {"aot_clips_open", "aot_clips_choice", "aot_clips_caption", "mlvu_dev", "mlvu_test"} <= results[
        "results"
    ].keys()
    paper = {task for task, _ in runs["vid"]} - {"mlvu_dev", "mlvu_test"}
    assert sum(task.startswith("mvbench_") for task in paper) == 20
    assert {"egoschema_subset", "longvideobench_val_v", "videomme"} <= paper
    # the mean of MVBench's tasks, which lmms-eval's own group leaves blank
    scores = [results["results"][task]["mvbench_accuracy,none"] for task in paper if task.startswith("mvbench_")]
    assert results["results"]["aot_mvbench"]["mvbench_accuracy,none"] == pytest.approx(sum(scores) / 20)
    assert "mvbench_accuracy,none" not in site.results("ov")["results"]["mvbench"]
    suffix = runs["vid"]["mlvu_test", 0]["input"]
    assert suffix.endswith("Best option: (")


def test_eight_more_benchmarks_score_as_lmms_eval_prints(site):
    store = site.runs / "more-store"
    site.run("more", "llava_onevision_aot", f"{CPU},retention=0.25,store={store}", "aot_more", limit=4)
    questions, harness = read_outcome(site.runs / "more", store)
    scores: dict[str, list[float]] = {}
    for question in questions:
        assert question.failure is None and question.tokens["visual"] == question.tokens["visual_before"] / 4
        scores.setdefault(question.task, []).append(question.score)
    counts = {task: len(rows) for task, rows in scores.items()}
    assert counts == {**dict.fromkeys(MORE, 2), "videomme_v2": 4, "vinoground": 4}
    for task, (metric, scale) in MORE.items():
        ours, printed = sum(scores[task]) / counts[task], harness[task][metric]
        assert printed == pytest.approx(scale * ours), task
    right = {q.doc_id: q.score for q in questions if q.task == "vinoground"}
    kinds = {"text": right["0"] and right["1"], "video": right["2"] and right["3"], "group": all(right.values())}
    assert harness["vinoground"] == {f"vinoground_{kind}": 100 * both for kind, both in kinds.items()}


def test_two_ranks_one_killed_and_resumed_answer_as_one_process(site, runs):
    store = site.runs / "two-store"
    tasks = TASKS.replace("mvbench,", "")
    asked = "two", "llava_onevision_aot", f"{CPU},retention=1,store={store}", tasks
    first = site.start(*asked, ranks=2, limit=8)
    waiting = time.monotonic() + 600
    while len(records(store)) < 2:
        assert first.poll() is None and time.monotonic() < waiting, site.log("two")[-3000:]
        time.sleep(0.05)
    rank = int(Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()[0])
    os.kill(rank, signal.SIGKILL)
    assert first.wait(timeout=300) != 0
    kept = records(store)
    assert 2 <= len(kept) < 24 and not site.rows("two")

    rows = site.run(*asked, ranks=2, limit=8)
    both = rows.keys() & runs["ov"].keys()
    assert len(rows) == 24 and len(both) == 12  # here eight questions about clips and not two
    assert {key: reply(rows[key]) for key in both} == {key: reply(runs["ov"][key]) for key in both}
    everything = records(store)
    assert max(Counter(line["key"] for line in everything).values()) == 1  # nothing was asked twice
    assert {line["record"]["details"]["rank"] for line in everything} == {0, 1}


def test_several_visuals_odd_texts_and_a_broken_video_through_lmms_eval_itself(site, runs, ask, tmp_path, monkeypatch):
    *questions, broken = read_outcome(site.runs / "odd", site.runs / "odd-store")[0]
    # the broken one fails by itself
    assert broken.reply is None and "broken.mp4" in broken.failure
    row = runs["odd"]["odd", 7]
    assert reply(row) == "[failed]" and row["token_counts"][0]["failure"] == broken.failure
    assert "1 of 8 questions FAILED" in site.log("odd")
    # the others are answered from all that they show
    assert [q.failure for q in questions] == [None] * 7
    assert [q.tokens["frames"] for q in questions] == [4, 4, 8, 8, 4, 4, 8]
    assert [q.tokens["visual"] for q in questions] == [144, 144, 288, 288, 144, 144, 288]
    assert [q.tokens.get("images") for q in questions] == [None, None, None, None, 1, 1, None]
    replies = [q.reply for q in questions]
    assert replies[0] == "square" != replies[1]
    # each gets what the wrapper says of it by itself, and another order is another question
    arguments = {"batch_size": 1, "max_frames_num": 4, "retention": 0.25, "store": str(tmp_path)}
    wrapper = get_model("llava_onevision_aot")(pretrained=str(ROOT / "checkpoints" / "aot-tiny"), **arguments)
    red, clips = Image.new("RGB", (96, 96), (200, 30, 30)), {name: str(site.hub / f"{name}.mp4") for name in "ab"}
    orders = [("a",), ("b",), ("a", "b"), ("b", "a"), ("image", "a"), ("a", "image")]
    monkeypatch.setattr(ask, "visuals", lambda doc: [clips.get(name, red) for name in doc["shown"]])
    told = ask(wrapper, [{"shown": shown} for shown in orders], questions[2].prompt, max_new_tokens=16)
    assert [answer.text for answer in told] == replies[:6]
    assert [q.target for q in questions[:2]] == ["a triangle\u2028or a square", "a cross\u0085"]
