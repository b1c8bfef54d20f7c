"""SToP: what its sink scores change in HoliTom."""

import pytest
import torch

from aot import AOTConfig, AOTError, TokenKind, compress
from aot.methods import stop
from aot.registry import get_method


def run(features, attention, retention, method="stop", **options):
    config = AOTConfig(method=method, retention=retention, options=options)
    extras = {"attention_last": attention}
    return compress(features, None, None, config, pool=None, grid=(1, features.shape[1]), extras=extras)


def test_sink_score_by_hand():
    attention = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.2, 0.5]])  # means .2, .2, .6
    low, high = 0.2**1.1, 0.6**1.1
    assert stop.sink_score(attention).tolist() == pytest.approx([0, 0, (high - low) / (high - low)])
    middle = stop.sink_score(torch.tensor([[0.2, 0.4, 0.6]]))
    assert float(middle[1]) == pytest.approx((0.4**1.1 - low) / (high - low))
    assert stop.sink_score(torch.full((2, 3), 0.4)).tolist() == [0, 0, 0]


def test_without_weights_it_is_holitom(make_video, monkeypatch):
    monkeypatch.setattr(stop, "PEAK_WEIGHT", 0.0)
    features, attention, _ = make_video(8, (1, 20), 12)
    for retention in (0.1, 0.4):
        found = run(features, attention, retention, spatial=0, temporal=0)
        expected = run(features, attention, retention, "holitom", threshold=0.8)
        assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.frame, expected.frame)


def test_a_place_that_is_always_attended_to_gives_way():
    """Frames unlike each other, so that nothing is static: place 0 leads in all, place 2 in the first alone."""
    features = torch.randn(4, 4, 16, generator=torch.Generator().manual_seed(0))
    attention = torch.tensor([[0.5, 0.1, 0.49, 0.1]] + [[0.5, 0.1, 0.0, 0.2]] * 3) * 4  # received, of 4 queries
    plain = run(features, attention, 0.25, spatial=0, temporal=0)
    assert plain.position[:, 1].tolist() == [0, 0, 0, 0]
    pruned = run(features, attention, 0.25, spatial=0.45, temporal=0)
    assert bool((pruned.kind == TokenKind.DYNAMIC).all())
    assert pruned.position[:, 1].tolist() == [2, 3, 3, 3]


def test_a_sink_counts_as_static():
    """Two places whose cosine to the next frame is 0.78: the sink's becomes 0.85, above 0.8, and is averaged."""
    angle = torch.arccos(torch.tensor(0.78))
    turn = torch.stack([angle.cos(), angle.sin()])
    east = torch.tensor([1.0, 0.0])
    features = torch.stack([torch.stack([east, east, east]), torch.stack([turn, turn, east])])
    attention = torch.tensor([[2.0, 0.5, 0.5]]).expand(2, 3)
    kinds = {t: run(features, attention, 0.67, spatial=0, temporal=t).kind.tolist() for t in (0, 0.07)}
    assert kinds[0].count(TokenKind.LOCAL) == 1 and kinds[0.07].count(TokenKind.LOCAL) == 2


def test_published_weights():
    assert get_method("stop").options == {"spatial": 0.04, "temporal": 0.07, "threshold": 0.8}
    assert (stop.POWER, stop.PEAK_WEIGHT) == (1.1, 0.3)
    with pytest.raises(AOTError, match="option spatial"):
        AOTConfig(method="stop", options={"spatial": -1})
