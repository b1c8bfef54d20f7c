"""Our uncompressed model through lmms-eval's wrapper says what it says when it is examined directly."""

from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from lmms_eval.models import get_model

from aot_tiny.shapes.questions import choice_correct, open_correct
from llava.eval.exam.evaluator import run_exam
from llava.eval.exam.feature_cache import FeatureCache, shared_plan
from llava.eval.exam.questions import clip_files, make_exam
from llava.eval.exam.settings import parse_setting

EMBEDDED = Path(__file__).resolve().parents[2] / "checkpoints" / "aot-tiny"
CLIPS = 2


def test_replies_and_scores_are_those_of_the_direct_exam(tmp_path, ask):
    exam = make_exam()
    clips = sorted({item.clip for item in exam})[:CLIPS]
    items = [item for item in exam if item.clip in clips]
    files = clip_files(items, tmp_path)
    wrapper = get_model("llava_onevision_aot")(pretrained=str(EMBEDDED), batch_size=1, device="cpu", retention=1)

    plan = shared_plan(wrapper.model.get_vision_tower(), [None])
    cache = FeatureCache(wrapper.model, wrapper._image_processor, files, plan)
    direct = run_exam(wrapper.model, wrapper.tokenizer, cache, items, parse_setting("full"), captioned=0)
    assert len(items) >= 2 * CLIPS

    for form, prompt_of, right in (
        ("open", lambda item: item.question.open_prompt(), lambda text, item: open_correct(text, item.question)),
        ("choice", lambda item: item.choice_prompt, lambda text, item: choice_correct(text, item.letter)),
    ):
        expected = [reply for reply in direct if reply.task == form]
        through = []
        for number, item in enumerate(items):
            doc = {"video": str(files[item.clip])}
            (result,) = ask(wrapper, [doc], prompt_of(item), task=f"{form} {number}", max_new_tokens=8)
            through.append(result.text)
        assert through == [reply.reply or "[empty]" for reply in expected]
        scores = [float(right(text, item)) for text, item in zip(through, items, strict=True)]
        assert scores == [reply.score for reply in expected]
