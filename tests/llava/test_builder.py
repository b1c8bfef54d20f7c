import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import llava.model.builder as builder
from aot import AOTConfig
from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.llava_arch import build_vision_projector
from llava.model.loading import CheckpointError

TOWER_KEY = "model.vision_tower.vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight"


def edit_config(folder, **changes):
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    for name, value in changes.items():
        settings.pop(name, None)
        if value is not None:
            settings[name] = value
    file.write_text(json.dumps(settings))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_the_tower_may_have_a_dtype_of_its_own(checkpoint):
    """bfloat16 in the tower: the language model and what it reads stay float32, and features stay near."""
    _, whole, _, _ = load_pretrained_model(checkpoint, compression={"retention": 0.5})
    _, half, _, _ = load_pretrained_model(checkpoint, compression={"retention": 0.5}, tower_dtype="bfloat16")
    tower = half.get_vision_tower()
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    assert (tower.dtype, half.dtype, half.get_model().mm_projector[0].weight.dtype) == (
        torch.bfloat16,
        *[torch.float32] * 2,
    )
    size = tower.image_size
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = [model.encode_video(pixels).features for model in (half, whole)]
    assert features[0].dtype == torch.float32
    assert 0 < (features[0] - features[1]).norm() / features[1].norm() < 0.05
    for wrong, words in (("int8", "Unknown tower_dtype 'int8'; use one of"), ("auto", "name a dtype")):
        with pytest.raises(ValueError, match=words):
            load_pretrained_model(checkpoint, tower_dtype=wrong)


def test_what_comes_back(checkpoint, tokenizer):
    loaded_tokenizer, model, processor, context = load_pretrained_model(checkpoint, None, "llava-llama-13b")
    assert type(model) is LlavaQwenForCausalLM and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert loaded_tokenizer("<|im_end|>a").input_ids == tokenizer("<|im_end|>a").input_ids
    assert processor is model.get_vision_tower().image_processor and context == 32768
    assert model.config.aot is None and model.config.mm_use_im_start_end is False


def test_the_calls_of_evaluation_wrappers(checkpoint):
    overwrite = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "average", "rope_scaling": None}
    _, model, _, _ = load_pretrained_model(
        checkpoint, None, "llava_qwen", device_map="auto", multimodal=True,
        attn_implementation="sdpa", overwrite_config=overwrite,
    )  # fmt: skip
    assert model.config.mm_spatial_pool_mode == "average" and model.config.mm_spatial_pool_stride == 2
    assert model.model.rotary_emb.inv_freq[1].item() == pytest.approx(1e6 ** (-2 / 8))
    assert "image_aspect_ratio" in model.config.__dict__
    customized = LlavaQwenConfig.from_pretrained(checkpoint, mm_newline_position="grid")
    _, model, _, _ = load_pretrained_model(
        str(checkpoint), None, "x", device_map="cpu", customized_config=customized,
        overwrite_config={"tokenizer_padding_side": "left"},
    )  # fmt: skip
    assert model.config.mm_newline_position == "grid" and model.config.tokenizer_padding_side == "left"
    assert not hasattr(customized, "tokenizer_padding_side")


@pytest.mark.parametrize("aot", [AOTConfig(retention=0.2), {"retention": 0.2}])
def test_aot_settings_at_load(checkpoint, aot):
    _, model, _, _ = load_pretrained_model(checkpoint, compression=aot)
    assert model.config.aot == AOTConfig(retention=0.2)
    assert json.loads(model.config.to_json_string())["aot"] == model.config.aot.to_dict()


def test_bad_aot_settings(checkpoint):
    with pytest.raises(ValueError, match="retention"):
        load_pretrained_model(checkpoint, compression={"retention": 1.5})
    with pytest.raises(ValueError, match="colour"):
        load_pretrained_model(checkpoint, compression={"colour": 1})


def test_dtypes_on_cpu(checkpoint):
    for name, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32), ("auto", torch.float32)):
        _, model, _, _ = load_pretrained_model(checkpoint, device_map="cpu", torch_dtype=name)
        assert {p.dtype for p in model.parameters()} == {expected}
    with pytest.raises(ValueError, match="float8"):
        load_pretrained_model(checkpoint, torch_dtype="float8")


@pytest.mark.parametrize(
    ("installed", "device", "dtype", "chosen"),
    [
        (True, "cuda", torch.float16, "flash_attention_2"),
        (False, "cuda", torch.float16, "sdpa"),
        (True, "cuda", torch.float32, "sdpa"),
        (True, "cpu", torch.bfloat16, "sdpa"),
    ],
)
def test_flash_attention_where_it_can_run(monkeypatch, installed, device, dtype, chosen):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: installed)
    assert builder.attention_for("flash_attention_2", torch.device(device), dtype) == chosen
    assert builder.attention_for("eager", torch.device(device), dtype) == "eager"


def test_the_class_follows_config_json(checkpoint):
    edit_config(checkpoint, model_type="llava")  # as in a published file
    _, model, _, _ = load_pretrained_model(checkpoint, None, "tiny-vicuna")
    assert type(model) is LlavaQwenForCausalLM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_config": {}, "architectures": ["LlavaOnevisionForConditionalGeneration"]},
            "layout of transformers",
        ),
        ({"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"}, "LlavaLlamaForCausalLM"),
        ({"architectures": None, "model_type": "qwen2"}, "qwen2"),
        ({"mm_vision_config": None}, "mm_vision_config"),
        ({"mm_projector_type": "resampler"}, "resampler"),
    ],
)
def test_other_kinds_are_refused(checkpoint, changes, message):
    edit_config(checkpoint, **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained_model(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(TOWER_KEY), f"lacks {TOWER_KEY}"),
        (
            lambda w: [w.pop(key) for key in list(w) if "vision_tower" in key and "layers.0" not in key],
            "lacks .*vision_tower.* and 66 more",
        ),
        (lambda w: w.update({"model.extra.weight": torch.zeros(2)}), "unknown model.extra.weight"),
        (
            lambda w: w.update({TOWER_KEY: torch.zeros(3, 3)}),
            r"holds .*fc1.weight of shape \(3, 3\) where config.json asks for \(48, 24\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(checkpoint, change, message):
    edit_weights(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained_model(checkpoint)
    with pytest.raises(CheckpointError, match=message.split(" of shape")[0]):
        LlavaQwenForCausalLM.from_pretrained(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", [TOWER_KEY, "model.layers.0.mlp.up_proj.weight", "model.image_newline"])
def test_values_that_are_not_finite_are_refused(checkpoint, key, value):
    edit_weights(checkpoint, lambda w: w[key].view(-1)[3].fill_(value))
    with pytest.raises(CheckpointError, match=f"NaN or infinite values in {key};"):
        load_pretrained_model(checkpoint)


def test_values_beyond_a_dtype_are_refused(checkpoint):
    """1e30 is finite in the file and infinite in float16."""
    edit_weights(checkpoint, lambda w: w[TOWER_KEY].view(-1)[3].fill_(1e30))
    load_pretrained_model(checkpoint)
    with pytest.raises(CheckpointError, match=f"{TOWER_KEY};.*dtype that it was trained in"):
        LlavaQwenForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)


def test_harmless_weights_of_older_releases(checkpoint):
    """Buffers and layers that nothing reads: with them, and without the unused norm, the model is the same."""
    _, before, _, _ = load_pretrained_model(checkpoint)
    tower = "model.vision_tower.vision_tower.vision_model."
    edit_weights(
        checkpoint,
        lambda w: w.update(
            {
                tower + "embeddings.position_ids": torch.arange(144)[None],
                tower + "head.probe": torch.zeros(1, 1, 24),
                tower + "head.mlp.fc1.weight": torch.zeros(48, 24),
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
                "model.rotary_emb.inv_freq": torch.zeros(4),
            }
        ),
    )
    edit_weights(checkpoint, lambda w: [w.pop(f"{tower}post_layernorm.{kind}") for kind in ("weight", "bias")])
    _, after, _, _ = load_pretrained_model(checkpoint)
    changed = {key for key, x in after.state_dict().items() if not torch.equal(x, before.state_dict()[key])}
    assert all("post_layernorm" in key for key in changed)
    LlavaQwenForCausalLM.from_pretrained(checkpoint)
    edit_weights(checkpoint, lambda w: w.update({tower + "embeddings.extra_ids": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="unknown .*extra_ids"):
        load_pretrained_model(checkpoint)


def test_a_stored_output_table_must_be_the_tied_one(checkpoint):
    edit_weights(checkpoint, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    load_pretrained_model(checkpoint)
    edit_weights(checkpoint, lambda w: w["lm_head.weight"].view(-1)[0].add_(1))
    with pytest.raises(CheckpointError, match="tie_word_embeddings to false"):
        load_pretrained_model(checkpoint)
    edit_config(checkpoint, tie_word_embeddings=False)
    _, model, _, _ = load_pretrained_model(checkpoint)
    assert model.lm_head.weight[0, 0] != model.model.embed_tokens.weight[0, 0]


def test_a_checkpoint_saved_without_its_tower(checkpoint):
    edit_weights(checkpoint, lambda w: [w.pop(key) for key in list(w) if "vision_tower" in key])
    with pytest.raises(CheckpointError, match="holds no vision tower"):
        load_pretrained_model(checkpoint)


def test_no_report_of_transformers_before_a_refusal(checkpoint):
    """Nothing reaches the handlers of its logger, whose level is as before."""
    edit_weights(checkpoint, lambda w: w.update({TOWER_KEY: torch.zeros(3, 3), "model.extra": torch.zeros(2)}))
    logger, records = logging.getLogger("transformers.modeling_utils"), []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        for load in (load_pretrained_model, LlavaQwenForCausalLM.from_pretrained):
            with pytest.raises(CheckpointError):
                load(checkpoint)
        assert not records
        logger.error("heard")
        assert len(records) == 1
    finally:
        logger.removeHandler(handler)


def truncate(file):
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no settings"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: truncate(folder / "model.safetensors"), "weights in .*model.safetensors cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": 1}'), "tokenizer"),
        (lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "tokenizer"),
    ],
)
def test_damaged_folders_are_refused(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message) as error:
        load_pretrained_model(checkpoint)
    assert "\n" not in str(error.value)


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint folder"):
        load_pretrained_model(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(CheckpointError, match="is a file and no folder"):
        load_pretrained_model(str(file))


def test_unknown_argument(checkpoint):
    with pytest.raises(TypeError, match="colour"):
        load_pretrained_model(checkpoint, colour=1)


def test_projectors():
    class Settings:
        mm_hidden_size, hidden_size, mm_projector_type = 6, 4, "linear"

    assert build_vision_projector(Settings())(torch.zeros(2, 6)).shape == (2, 4)
    Settings.mm_projector_type = None  # as where config.json says nothing
    assert build_vision_projector(Settings())(torch.zeros(2, 6)).shape == (2, 4)
    Settings.mm_projector_type = "mlp2x_gelu"
    names = dict(build_vision_projector(Settings()).named_parameters())
    assert {name: tuple(p.shape) for name, p in names.items()} == {
        "0.weight": (4, 6), "0.bias": (4,), "2.weight": (4, 4), "2.bias": (4,),
    }  # fmt: skip


def test_the_rotary_base_is_written_for_both_versions_of_transformers(make_model):
    assert make_model().config.to_dict()["rope_theta"] == 1e6
