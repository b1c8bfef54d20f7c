"""Fields of config.json that change the numbers: obeyed, with numbers computed by hand, or refused in a sentence."""

import copy
import json

import pytest
import torch

from aot import AOTError, pool_tokens, pooled_grid
from llava.model.builder import load_pretrained_model
from llava.model.checkpoint import TOWER, Stored, name_tower
from llava.model.language_model.configuration_llava_qwen import (
    check_sizes,
    layers_in_use,
    tower_config,
    unused_layers,
)
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.loading import CheckpointError

from .conftest import tiny_config


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_pretrained_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_resampler_type", "perceiver"),
        ("mm_resampler_type", "spatial_pool"),
        ("mm_spatial_pool_mode", "median"),
        ("mm_spatial_pool_stride", 0),
        ("mm_spatial_pool_stride", 1.5),
        ("mm_spatial_pool_stride", "4"),
        ("mm_newline_position", "row"),
        ("mm_patch_merge_type", "spatial_maxpool2x2"),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_vision_select_layer", -7),
        ("mm_vision_select_layer", 0),
        ("mm_vision_select_layer", 6),
        ("mm_vision_select_layer", "-2"),
        ("mm_projector_type", "mlp2x_res2x_gelu"),
        ("mm_projector_type", "pooler"),
        ("mm_projector_type", "mlp99999999x_gelu"),
        ("mm_projector_type", ["linear"]),
        ("mm_use_im_start_end", True),
        ("add_faster_video", True),
        ("s2", True),
        ("tokenizer_padding_side", "middle"),
        ("num_key_value_heads", 3),
        ("mm_hidden_size", 25),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", 900),
        ("num_hidden_layers", 1e6),
        ("num_hidden_layers", True),
        ("num_hidden_layers", 1),
        ("hidden_size", 2**60),
        ("hidden_size", -1),
        ("vocab_size", 10**15),
        ("vocab_size", None),
        ("num_attention_heads", "4"),
        ("mm_video_frames", "many"),
        ("mm_vision_config", [1]),
    ],
)
def test_what_is_not_obeyed_is_refused(checkpoint, name, value):
    edit(checkpoint, **{name: value})
    assert name in refusal(checkpoint)


@pytest.mark.parametrize(
    ("name", "value"), [("num_hidden_layers", 10**6), ("image_size", 0), ("patch_size", 1.0), ("hidden_size", None)]
)
def test_sizes_of_the_tower(checkpoint, name, value):
    sizes = json.loads((checkpoint / "config.json").read_text())["mm_vision_config"]
    edit(checkpoint, mm_vision_config={**sizes, name: value})
    assert name in refusal(checkpoint)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("vocab_size", 16_777_216),
        ("hidden_size", 131_072),
        ("intermediate_size", 1_048_576),
        ("num_hidden_layers", 1000),
        ("num_attention_heads", 4096),
        ("num_key_value_heads", 4096),
        ("head_dim", 4096),
        ("max_position_embeddings", 2_147_483_648),
        ("mm_hidden_size", 131_072),
        ("mm_video_frames", 131_072),
        ("image_size", 16_384),
        ("patch_size", 16_384),
    ],
)
def test_sizes_end_somewhere(name, most):
    for size in (1, most):
        check_sizes({name: size, "mm_vision_config": {name: size}})
    for size in (0, most + 1):
        for settings, place in (({name: size}, name), ({"mm_vision_config": {name: size}}, f"mm_vision_config.{name}")):
            with pytest.raises(CheckpointError, match=f"^{place} in config.json is {size}; .* from 1 to {most}"):
                check_sizes(settings)


def test_which_sizes_may_be_null():
    optional = ("num_key_value_heads", "head_dim", "mm_hidden_size", "mm_video_frames")
    check_sizes(dict.fromkeys(optional))
    for settings in ({"hidden_size": None}, {"mm_vision_config": {"num_key_value_heads": None}}):
        with pytest.raises(CheckpointError, match="is None; it must be a whole number"):
            check_sizes(settings)


def test_fields_that_callers_read_are_there_before_a_checkpoint_sets_them():
    config = LlavaQwenConfig()
    assert config.mm_vision_config is None
    assert config.mm_use_im_start_end is False and config.mm_use_im_patch_token is False


def test_what_a_caller_overwrites_is_judged_too(checkpoint):
    edit(checkpoint, add_faster_video=True)
    load_pretrained_model(checkpoint, overwrite_config={"add_faster_video": False})
    with pytest.raises(CheckpointError, match="mm_newline_position"):
        load_pretrained_model(checkpoint, overwrite_config={"add_faster_video": False, "mm_newline_position": "x"})
    edit(checkpoint, aot={"retention": 7})
    with pytest.raises(AOTError, match="retention"):
        load_pretrained_model(checkpoint, overwrite_config={"add_faster_video": False})


def test_fields_of_published_checkpoints_load(checkpoint):
    """Those of LLaVA-OneVision and LLaVA-Video that say what is done here anyway, and those of training alone."""
    edit(
        checkpoint, mm_resampler_type=None, mm_spatial_pool_stride=2, mm_vision_select_layer=-2, add_faster_video=False,
        mm_vision_select_feature="patch", mm_pooling_position="before", faster_token_stride=10, force_sample=False,
        add_time_instruction=False, rope_scaling=None, use_mm_proj=True, mm_tunable_parts="mm_mlp_adapter", s2=False,
        use_pos_skipping=True, delay_load=True, unfreeze_mm_vision_tower=True, mm_use_im_patch_token=True,
        sliding_window=131072, use_sliding_window=False, mm_spatial_pool_out_channels=1152, vision_tower_pretrained="",
    )  # fmt: skip
    load_pretrained_model(checkpoint)


@pytest.fixture
def features():
    return torch.randn(2, 144, 3, generator=torch.Generator().manual_seed(2))


def test_pooling_by_other_strides(features):
    """Means and maxima of blocks; bilinear by 4 reads the two inner of four places in each direction."""
    blocks = features.view(2, 4, 3, 4, 3, 3)  # rows of 3, columns of 3
    assert torch.equal(pool_tokens(features, (12, 12), "max/3"), blocks.amax(dim=(2, 4)).flatten(1, 2))
    torch.testing.assert_close(pool_tokens(features, (12, 12), "average/3"), blocks.mean(dim=(2, 4)).flatten(1, 2))
    inner = features.view(2, 3, 4, 3, 4, 3)[:, :, 1:3, :, 1:3].mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(pool_tokens(features, (12, 12), "bilinear/4"), inner)
    for mode in ("bilinear", "average", "max"):
        assert torch.equal(pool_tokens(features, (12, 12), f"{mode}/1"), features)
        assert torch.equal(pool_tokens(features, (12, 12), f"{mode}/2"), pool_tokens(features, (12, 12), mode))
    assert (pooled_grid((27, 27), "bilinear/4"), pooled_grid((27, 27), "average/4")) == ((7, 7), (6, 6))
    for wrong in ("max/0", "max/-1", "median/2", "max/x", "/2", "max/²", 2):
        with pytest.raises(AOTError, match="Unknown pooling"):
            pooled_grid((4, 4), wrong)
    with pytest.raises(AOTError, match="at least 5x5"):
        pooled_grid((4, 4), "average/5")


@torch.no_grad()
@pytest.mark.parametrize(("mode", "stride"), [("average", 3), ("bilinear", 4), ("max", 1)])
def test_the_stride_of_a_model(model, video, mode, stride):
    """Read at every call, as the mode is: tokens, counts, compression and streams follow it."""
    model.config.mm_spatial_pool_mode, model.config.mm_spatial_pool_stride = mode, stride
    model.config.mm_newline_position = "no_token"
    encoded = model.encode_video(video)
    side = 12 // stride
    tokens, _ = model.video_tokens(encoded)
    wanted = pool_tokens(encoded.features, (12, 12), f"{mode}/{stride}")
    assert tokens.shape == (6 * side * side, 32) and torch.equal(tokens, wanted.flatten(0, 1))
    assert model.uncompressed_count(6) == (6 * side * side, 0)
    model.config.aot = {"retention": 0.5}
    _, compressed = model.video_tokens(encoded)
    assert compressed.grid == (side, side) and compressed.num_visual == 3 * side * side


@torch.no_grad()
@pytest.mark.parametrize(("index", "layers"), [(None, 5), (-1, 5), (-2, 5), (-3, 4), (-6, 1), (5, 5), (2, 2)])
def test_the_layer_that_features_come_from(checkpoint, model, video, index, layers):
    """The output of so many layers, run one after the other by hand; weights behind them are left out."""
    edit(checkpoint, mm_vision_select_layer=index)
    _, loaded, _, _ = load_pretrained_model(checkpoint)
    tower, hidden = model.get_vision_tower(), model.get_vision_tower()._embed(video)
    for layer in tower.vision_tower.vision_model.encoder.layers[:layers]:
        output = layer(hidden, None)
        hidden = output[0] if isinstance(output, tuple) else output
    assert loaded.get_vision_tower().num_layers == layers
    torch.testing.assert_close(loaded.get_vision_tower()(video), hidden, rtol=1e-5, atol=1e-5)


def test_layers_count_from_the_whole_tower():
    class Settings:
        mm_vision_select_layer = -3

    assert layers_in_use(Settings, 26) == 25  # 27 layers, 28 hidden states: -3 is the output of 25


def test_a_model_with_fewer_layers_is_saved_and_loaded(make_model, tmp_path, video):
    model = make_model(mm_vision_select_layer=-4)
    model.save_pretrained(tmp_path)
    again = LlavaQwenForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.get_vision_tower()(video), model.get_vision_tower()(video))


@torch.no_grad()
def test_scaled_rotary_positions_are_obeyed(checkpoint):
    _, plain, _, _ = load_pretrained_model(checkpoint)
    edit(checkpoint, rope_scaling={"type": "linear", "factor": 4.0}, rope_parameters=None)
    _, scaled, _, _ = load_pretrained_model(checkpoint)
    assert torch.equal(scaled.model.rotary_emb.inv_freq * 4, plain.model.rotary_emb.inv_freq)
    edit(checkpoint, rope_scaling={"type": "unheard of", "factor": 4.0})
    assert "config.json" in refusal(checkpoint)


@torch.no_grad()
def test_a_sliding_window_is_obeyed(checkpoint):
    """Two layers of a window of 3 reach 4 places back and no further."""
    changes = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0, "layer_types": None}
    edit(checkpoint, **changes)
    _, model, _, _ = load_pretrained_model(checkpoint)
    ids = torch.arange(1, 11)[None]
    last = model(ids).logits[0, -1]
    for place, reached in ((5, True), (4, False), (0, False)):
        other = ids.clone()
        other[0, place] = 200
        assert torch.equal(model(other).logits[0, -1], last) != reached


def so400m(**changes) -> dict[str, Stored]:
    shapes = {
        "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "embeddings.position_embedding.weight": (729, 1152),
        "encoder.layers.0.mlp.fc1.weight": (4304, 1152),
        **changes,
    }
    return {TOWER + name: Stored(None, "BF16", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["/data/towers/mine", "./siglip", "checkpoints/tower", None])
def test_the_weights_name_the_tower(name):
    config = tiny_config(mm_vision_config=None, mm_vision_tower=name, mm_hidden_size=1152)
    left = copy.deepcopy(config)
    name_tower(config, so400m())
    assert tower_config(config).num_hidden_layers == 26 and unused_layers(config) == [
        r"vision_tower\.vision_model\.encoder\.layers\.26\."
    ]
    name_tower(left, so400m(**{"embeddings.position_embedding.weight": (256, 1152)}))
    with pytest.raises(CheckpointError, match="mm_vision_config"):
        tower_config(left)


@pytest.mark.parametrize("whole", [True, False])
def test_the_folder_of_a_tower_states_its_geometry(checkpoint, model, video, tmp_path, whole):
    sizes = {**model.config.mm_vision_config, "num_hidden_layers": 6}
    tower = tmp_path / "tower"
    tower.mkdir()
    settings = {"model_type": "siglip_vision_model", **sizes}
    (tower / "config.json").write_text(
        json.dumps({"model_type": "siglip", "vision_config": settings} if whole else settings)
    )
    edit(checkpoint, mm_vision_config=None, mm_vision_tower=str(tower))
    _, loaded, _, _ = load_pretrained_model(checkpoint)
    assert torch.equal(loaded.get_vision_tower()(video), model.get_vision_tower()(video))
    (tower / "config.json").write_text('{"model_type": "clip_vision_model"}')
    assert "is not supported" in refusal(checkpoint)
    (tower / "config.json").write_text("{")
    assert str(tower) in refusal(checkpoint)
