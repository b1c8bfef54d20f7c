"""Every other method gives the numbers that it gave."""

import json

import pytest

from aot import method_names
from aot.methods import dycoke, flashvid, ott_vid, vidcom2
from aot.registry import get_method
from tests.aot.pins import CASES, FILE, numbers

PINS = json.loads(FILE.read_text())


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_the_file(case):
    found, expected = numbers(case), PINS[case]
    for name in ("place", "kind", "clips"):
        assert found[name] == expected[name]
    # kept to three places; sums of float32 differ by less from machine to machine
    for name in ("mass", "along"):
        assert found[name] == pytest.approx(expected[name], abs=2e-3)


def test_what_methods_ask_of_the_tower():
    needs = {"aot": ("shallow", "deep"), "visionzip": ("attention_last", "keys")}
    needs |= dict.fromkeys(("fastvid", "flashvid", "holitom", "ott_vid", "stop"), ("attention_last",))
    needs |= {"unicomp": ("keys",)}
    for name in method_names():
        assert get_method(name).requires == needs.get(name.removesuffix("+tuned"), ())


def test_published_constants():
    """What the papers state, where a seeded input may not tell one value from another."""
    assert get_method("visionzip").options == {"dominant": 54 / 64, "contextual": "sum"}
    assert get_method("prunevid").options == {"segments": 0.25, "threshold": 0.8, "neighbours": 7, "alone": 14}
    expected = {"threshold": 0.9, "cuts": 8, "salient": 0.6, "stride": 4, "neighbours": 4, "anchor_weight": 0.6}
    assert get_method("fastvid").options == expected
    assert get_method("holitom").options == {"threshold": None, "center_weight": 0.6, "neighbours": 7}
    assert get_method("ott_vid").options == {"temporal_share": 0.3}
    assert get_method("fastv").options == {"layer": 2, "counts": "average"}
    assert get_method("pdrop").options == {"layers": None, "counts": "average"}
    assert get_method("vidcom2").options == {"temperature": 0.01}
    assert get_method("evs").options == {"first_share": None}
    assert get_method("random").options == {"seed": 0}
    assert get_method("dycoke").options == {"window": None, "first_share": None}
    assert get_method("unicomp").options == {"frame_threshold": 0.005, "token_threshold": 0.2}
    assert get_method("stop").options == {"spatial": 0.04, "temporal": 0.07, "threshold": 0.8}
    assert get_method("vcast").options == {"temperature": 0.7} and get_method("floc").options == {"chunk": 32}
    assert flashvid.NEIGHBOURS == 7 and get_method("flashvid").options == {"diverse": 0.7, "link_above": 0.8}
    assert (flashvid.SEGMENT_BELOW, flashvid.SEGMENTS) == (0.9, 8)
    assert (ott_vid.TEMPERATURE, ott_vid.MAX_COST, ott_vid.EPSILON, ott_vid.ITERATIONS) == (0.3, 0.3, 0.01, 200)
    assert vidcom2.SCALES == (0.125, 0.25, 0.5, 1, 2)
    assert (dycoke.WINDOW, dycoke.WHOLE_FRAMES, dycoke.ALL_FRAMES) == (4, 10, 13)
