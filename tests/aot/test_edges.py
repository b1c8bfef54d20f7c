"""Edges that a small fault would move: sides that differ, places of newlines, what an error lists."""

import pytest
import torch

from aot import AOTConfig, AOTError, TokenKind, VideoStream, compress
from aot.methods.naive import uniform
from aot.registry import METHODS, Method, register
from aot.spatial_pooling import pooled_grid
from aot.stream import join
from aot.types import VideoTokens


def video(frames: int, grid: tuple[int, int], width: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    tokens = grid[0] * grid[1]
    return torch.randn(frames, tokens, width), torch.rand(frames, tokens), torch.rand(frames, tokens)


@pytest.mark.parametrize("grid", [(1, 6), (6, 1)])
def test_either_side_may_be_too_small_for_pooling(grid):
    with pytest.raises(AOTError, match="too small"):
        pooled_grid(grid, "average")


def test_a_stream_counts_the_tokens_of_a_grid_with_unequal_sides():
    frames, grid = 12, (2, 7)
    features, shallow, deep = video(frames, grid)
    config = AOTConfig(retention=0.3)
    stream = VideoStream(config, pool=None, grid=grid)
    parts = stream.push(features, shallow, deep)
    streamed = join([*parts, *stream.finish()])
    assert streamed.num_visual == config.budget(frames, grid[0] * grid[1])
    whole = compress(features, shallow, deep, config, pool=None, grid=grid)
    assert torch.equal(streamed.frame, whole.frame) and torch.equal(streamed.position, whole.position)


def test_newlines_by_row_stand_in_their_frame_and_row():
    grid = (3, 4)
    features, shallow, deep = video(5, grid)
    settings = {"pool": None, "grid": grid, "newline": torch.full((8,), 9.0)}
    result = compress(features, shallow, deep, AOTConfig(retention=0.4, newlines="row"), **settings)
    newline = result.kind == int(TokenKind.NEWLINE)
    rows = {(int(f), int(r)) for f, (r, _) in zip(result.frame[newline], result.position[newline], strict=True)}
    kept = {(int(f), int(r)) for f, (r, _) in zip(result.frame[~newline], result.position[~newline], strict=True)}
    assert rows == kept and int(newline.sum()) == len(rows)
    assert (result.position[newline][:, 1] == grid[1]).all() and (result.tokens[newline] == 9).all()
    # in the order of the video, each behind the last token of its row
    order = result.frame * 100 + result.position[:, 0] * 10 + result.position[:, 1]
    assert bool((order.diff() > 0).all())


def test_kinds_and_masses_are_what_they_are_called():
    features, shallow, deep = video(8, (9, 9))
    result = compress(features, shallow, deep, AOTConfig(retention=0.4, global_ratio=0.5), pool=None)
    assert set(result.kind.tolist()) == {int(TokenKind.LOCAL), int(TokenKind.GLOBAL)}
    assert result.kind.dtype == torch.int64 and result.mass.dtype == torch.float32
    assert float(result.mass.min()) >= 1 and float(result.mass.sum()) == pytest.approx(8 * 81, rel=1e-4)


def test_an_unknown_option_is_answered_with_the_known_ones():
    with pytest.raises(AOTError, match="contextual"):
        AOTConfig(method="visionzip", options={"nonsense": 1})
    with pytest.raises(AOTError, match="neighbours"):
        AOTConfig(method="prunevid", options={"neighbours": 0})


def test_a_part_of_a_video_is_a_video_that_knows_the_frame_before_it():
    features, shallow, deep = video(6, (2, 2))
    whole = VideoTokens(features, shallow, None, (2, 2), None, clips=[2, 4], extras={"keys": features})
    part, start = whole.span(2, 5), whole.span(0, 2)
    assert torch.equal(part.features, features[2:5]) and torch.equal(part.shallow, shallow[2:5]) and part.frames == 3
    assert torch.equal(part.before, features[1:2]) and start.before is None
    assert part.deep is None and part.clips is None and not part.extras
    part = VideoTokens(features, None, deep, (2, 2), None, before=features[:1]).span(0, 4)
    assert part.shallow is None and torch.equal(part.deep, deep[:4]) and torch.equal(part.before, features[:1])


def test_a_name_is_registered_once():
    with pytest.raises(AOTError, match="'aot' is already registered"):
        register("aot")(lambda video, config: None)


def test_a_method_that_does_not_say_what_it_reads_is_told(monkeypatch):
    monkeypatch.setitem(METHODS, "silent", Method("silent", lambda video, config: video.pooled_shallow))
    with pytest.raises(AOTError, match=r"needs the received attention of the shallow layer; pass shallow=\(T, N\)"):
        compress(torch.randn(3, 16, 4), None, None, AOTConfig(method="silent", retention=0.5))


@pytest.mark.parametrize("shape", [(3,), (3, 16, 2, 2), (3, 15), (3, 16, 0)])
def test_other_outputs_of_a_tower_are_numbers_or_vectors(monkeypatch, shape):
    monkeypatch.setitem(METHODS, "deep field", Method("deep field", uniform, requires=("depth",)))
    features, config = torch.randn(3, 16, 4), AOTConfig(method="deep field", retention=0.5)
    for fitting in ((3, 16), (3, 16, 2)):
        compress(features, None, None, config, extras={"depth": torch.zeros(fitting)})
    with pytest.raises(AOTError, match=r"^depth is .*; it must be \(T, N\) or \(T, N, K\), T = 3 and N = 16\.$"):
        compress(features, None, None, config, extras={"depth": torch.zeros(shape)})


def test_received_attention_that_is_given_twice_is_refused():
    features, importance = torch.rand(2, 16, 8), torch.rand(2, 16)
    settings = {"retention": 0.5, "attention_power": 0.5}
    once = compress(features, importance, importance, settings)
    named = compress(features, config=settings, extras={"shallow": importance, "deep": importance})
    assert torch.equal(once.tokens, named.tokens)
    with pytest.raises(AOTError, match="deep is given twice"):
        compress(features, importance, importance, settings, extras={"deep": importance})


def test_half_precision_cuts_a_video_where_float32_does():
    """Means of frames are taken in float32; in bfloat16 their cosines would be told apart by their first digits alone.

    Frames come in pairs that differ a little more from pair to pair, around one common picture.
    """
    torch.manual_seed(0)
    base = torch.randn(1, 36, 32)
    features = (10 * base + 0.02 * torch.randn(24, 36, 32).cumsum(0)).bfloat16()
    config = AOTConfig(clips="dynamic", clip_length=24, clip_threshold=-1, clip_cuts=12, retention=0.5)
    maps = torch.rand(2, 24, 36)
    half, whole = (compress(tokens, *maps, config).clips for tokens in (features, features.float()))
    assert half == whole and len(half) == 12
