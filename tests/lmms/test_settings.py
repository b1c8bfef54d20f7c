"""The method's settings among --model_args."""

import pytest

from aot import AOTConfig
from aot.errors import AOTError
from llava.eval.lmms.arguments import split_arguments


def test_settings_are_told_from_the_wrappers_arguments():
    config, rest = split_arguments({"retention": 0.25, "clips": "dynamic", "max_frames_num": 8})
    assert config == AOTConfig(retention=0.25, clips="dynamic")
    assert rest == {"max_frames_num": 8}


def test_a_preset_is_the_base():
    config, rest = split_arguments({"preset": "released", "num_anchors": 50, "use_cache": True})
    assert config == AOTConfig.preset("released", num_anchors=50)
    assert rest == {"use_cache": True}


def test_nothing_said_is_the_default():
    assert split_arguments({})[0] == AOTConfig()


def test_all_tokens_is_no_reduction():
    assert split_arguments({"retention": 1})[0] is None
    assert split_arguments({"retention": 1.0})[0] is None
    assert split_arguments({"retention": 1, "max_tokens": 64})[0] == AOTConfig(retention=1.0, max_tokens=64)


def test_a_number_of_tokens_is_taken_alone():
    assert split_arguments({"max_tokens": 64})[0] == AOTConfig(max_tokens=64)


def test_words_for_nothing_and_json_are_read():
    config, _ = split_arguments({"clip_length": "none", "method": "random", "options": '{"seed": 7}'})
    assert config.clip_length is None and config.options["seed"] == 7


@pytest.mark.parametrize(
    "arguments, names",
    [
        ({"retention": 1.5}, "retention"),
        ({"method": "nothing"}, "nothing"),
        ({"preset": "best"}, "best"),
        ({"method": "random", "options": "{seed}"}, "JSON"),
        ({"preset": "released", "retention": 0.1}, "num_anchors"),
    ],
)
def test_bad_settings_are_one_sentence(arguments, names):
    with pytest.raises(AOTError, match=names):
        split_arguments(arguments)
