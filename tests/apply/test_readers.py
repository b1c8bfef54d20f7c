"""Which layers of a tower are read for a method, on towers without weights."""

from types import SimpleNamespace

import pytest
from torch import nn

from aot import AOTError
from aot.integrations.qwen_tower import TowerReader
from aot.integrations.vision_outputs import Reader


def qwen(blocks, **settings):
    attention = SimpleNamespace(attn=SimpleNamespace(qkv=None))
    return SimpleNamespace(blocks=[attention] * blocks, spatial_merge_size=2, **settings)


def siglip(layers):
    tower = nn.Module()
    tower.encoder = nn.Module()
    attention = SimpleNamespace(q_proj=None, k_proj=None, num_heads=2)
    tower.encoder.layers = [SimpleNamespace(self_attn=attention)] * layers
    return tower


def names_of_siglip(layers, needs):
    return Reader(siglip(layers), needs, layers).names


def names_of_qwen(layers, needs):
    return TowerReader(qwen(layers), needs).names


@pytest.mark.parametrize("names", [names_of_siglip, names_of_qwen])
def test_a_tower_of_one_layer_gives_what_needs_no_two(names):
    assert names(1, ()) == []
    assert {name[-1] for name in names(1, ("attention_last", "keys"))} == {"0"}
    for needed in (("shallow",), ("deep", "keys")):
        with pytest.raises(AOTError, match="at least 2"):
            names(1, needed)
    with pytest.raises(AOTError, match="needs 'depth', which this vision tower cannot give"):
        names(4, ("keys", "depth"))
    with pytest.raises(AOTError, match="is not supported"):
        names(0, ("keys",))


@pytest.mark.parametrize("names", [names_of_siglip, names_of_qwen])
def test_layers_are_those_of_the_rule(names):
    """(L + 1) // 5 and the last but one, of 9 layers 2 and 7."""
    assert names(9, ("shallow", "deep")) == ["attention2", "attention7"]
    assert names(9, ("attention_last", "keys")) == ["attention8"]


def test_where_few_layers_see_a_whole_frame_the_nearest_of_them_is_read():
    reader = TowerReader(qwen(9, fullatt_block_indexes=[1, 3, 6]), ("shallow", "deep", "keys"))
    assert reader.layers == {"shallow": 1, "deep": 6, "keys": 6}  # of 1 and 3, as near to 2, the earlier
    assert TowerReader(qwen(9, fullatt_block_indexes=[3]), ("shallow",)).layers == {"shallow": 3}
