"""What the default hands to its operations: groups, bounds, and what it leaves out."""

import pytest
import torch

from aot import AOTConfig, TokenKind, compress
from aot.clips import MAX_CLIP_TOKENS, default_clip_length
from aot.methods import aot as default


@pytest.fixture
def calls(monkeypatch):
    """Arguments of every call of one of the default's functions, which goes on as it does: calls(name)."""

    def watch(name):
        seen, original = [], getattr(default, name)

        def watched(*arguments, **settings):
            seen.append((arguments, settings))
            return original(*arguments, **settings)

        monkeypatch.setattr(default, name, watched)
        return seen

    return watch


@pytest.mark.parametrize(("clips", "spare", "groups"), [(2, 0, [2, 2, 2]), (2, -1, [1] * 6), (1, -1, [1] * 6),
                                                        (4, 0, [4, 2]), (6, 0, [6]), (5, 0, [5, 1])])  # fmt: skip
def test_groups_hold_as_many_clips_as_memory_is_for(make_video, monkeypatch, calls, clips, spare, groups):
    """Six clips of 4 frames of 36 tokens, float32 costs of all pairs of each."""
    monkeypatch.setattr(default, "COST_BYTES", 4 * clips * 144**2 + spare)
    seen = calls("compress_clips")
    compress(*make_video(24, (6, 6), 16), AOTConfig(), pool=None)
    assert [len(arguments[1]) for arguments, _ in seen] == groups


def test_sizes_of_clips():
    assert MAX_CLIP_TOKENS == 8192  # 256 MiB of float32 for its pairs
    tokens = (1, 196, 200, 201, 267, 400, 401, 800, 801, 9000)
    assert [default_clip_length(count) for count in tokens] == [4, 4, 4, 3, 2, 2, 1, 1, 1, 1]


def test_where_all_tokens_are_kept_they_stay_as_they_are(make_video, calls):
    features, shallow, deep = make_video(6, (6, 6), 16)
    seen = calls("compress_clips")
    result = compress(features, shallow, deep, AOTConfig(retention=1.0), pool=None)
    assert torch.equal(result.tokens, features.flatten(0, 1)) and result.clips == [4, 2] and not seen
    assert (result.kind == int(TokenKind.GLOBAL)).all() and (result.mass == 1).all()


def test_what_lies_nearest_needs_no_iteration(make_video, calls):
    seen = calls("sinkhorn")
    compress(*make_video(6, (6, 6), 16), AOTConfig(), pool=None)
    compress(*make_video(6, (6, 6), 16), AOTConfig(), pool=None, trace=True)
    assert not seen


@pytest.mark.parametrize(("epsilon", "logarithms"), [(0.03, True), (0.036, True), (0.038, False), (0.1, False)])
def test_costs_beyond_the_range_of_float32_are_iterated_on_logarithms(make_video, calls, epsilon, logarithms):
    """The bound of costs is 2.95 here, and exp(-80) is about the least that float32 tells from 0."""
    seen = calls("sinkhorn")
    config = AOTConfig(uniform_marginal=0.5, iterations=7, epsilon=epsilon, sinkhorn_stop="never")
    compress(*make_video(4, (6, 6), 16), config, pool=None)
    ((_, told),) = seen
    assert told["log_domain"] is logarithms and told["iterations"] == 7 and told["stop"] == "never"
