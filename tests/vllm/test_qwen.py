"""vLLM with the plugin answers about Qwen-VL models as `aot.apply` on transformers' own do, token for token."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import aot
from aot import AOTConfig, AOTError
from aot.vllm import ARCHITECTURES
from tests.apply.families import IMAGE as IMAGE_ID
from tests.apply.families import START
from tests.apply.families import VIDEO as VIDEO_ID
from tests.apply.qwen import batch, image, rope, row, video
from tests.apply.qwen import make as qwen
from tests.hf.checkpoints import make

from .conftest import NEW_TOKENS, WHOLE, Prompt, check, picture

pytest.importorskip("vllm", reason="vLLM is not installed; scripts/test_vllm.sh installs it")

IMAGE, VIDEO = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))
METADATA = {"fps": 1.5, "duration": 10.7, "total_num_frames": 16, "frames_indices": list(range(16))}
DRAFTS = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
# pieces that cut every video, and two requests at a time, so that later ones find what earlier ones left in the caches
PIECES = {
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "max_num_batched_tokens": 48,
    "max_num_seqs": 2,
    "block_size": 32,
}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def checkpoint(tmp_path_factory, request):
    return make(tmp_path_factory.mktemp(request.param) / request.param, request.param)


@pytest.fixture(scope="module")
def questions(exam):
    """About one video, two of different grids, a picture and a video, a picture, nothing; and the first three again."""
    first, second = exam.frames[0], exam.frames[1][:, :64]
    asked = [prompt.text for prompt in exam.prompts]
    about = [((0,), ()), ((1,), ()), ((0, 1), ()), ((1,), (0,)), ((0,), (1,)), ((), (1,)), ((), ())]
    prompts = [Prompt(asked[i], videos, images) for i, (videos, images) in enumerate(about)]
    prompts += [Prompt(asked[8], (0,)), *prompts[:3]]
    metadata = {**METADATA, "video_backend": "opencv", "do_sample_frames": False}
    return replace(exam, frames=[first, second], prompts=prompts, metadata=metadata, image=IMAGE, video=VIDEO)


def vllm_positions(model, ids: torch.Tensor, mm_token_type_ids: torch.Tensor, **grids) -> tuple:
    """Positions that vLLM's own class gives a whole prompt of Qwen2.5-VL, (3, 1, N), and how far they are ahead.

    transformers 5 lets the text behind a video begin at a time inside it; vLLM behind it, as transformers 4 does.
    """
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Stock

    features, types = [], mm_token_type_ids[0]
    for number, names in ((1, ("image_grid_thw",)), (2, ("video_grid_thw", "second_per_grid_ts"))):
        firsts = ((types == number) & (types.roll(1) != number)).nonzero().flatten().tolist()
        for item, first in enumerate(firsts):
            data = {name: SimpleNamespace(data=grids[name][item]) for name in names}
            place, kind = SimpleNamespace(offset=first), names[0].removesuffix("_grid_thw")
            features.append(SimpleNamespace(modality=kind, mm_position=place, data=data))
    of_vllm = SimpleNamespace(config=model.config)
    of_vllm.iter_mm_grid_thw = partial(Stock.iter_mm_grid_thw, of_vllm)
    positions, ahead = Stock.get_mrope_input_positions(of_vllm, ids[0].tolist(), features)
    return positions[:, None], torch.tensor([[ahead]])


def own_answers(checkpoint, questions, config: AOTConfig) -> list[dict]:
    """As tests/vllm/engine.py writes them."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if checkpoint.name == "qwen2_5_vl":
        model.model.get_rope_index = partial(vllm_positions, model)
    processor = AutoProcessor.from_pretrained(checkpoint)
    applied = aot.apply(model, config=config)
    found = []
    for prompt in questions.prompts:
        media = {"images": [picture(questions, i) for i in prompt.images] or None}
        if prompt.videos:
            videos = [torch.from_numpy(questions.frames[i]).permute(0, 3, 1, 2) for i in prompt.videos]
            media |= {"videos": videos, "video_metadata": [dict(METADATA)] * len(videos), "do_sample_frames": False}
        inputs = processor(text=[prompt.write(image=IMAGE, video=VIDEO)], return_tensors="pt", **media)
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
        tokens = output.sequences[0, length:].tolist()
        first = output.logits[0][0].log_softmax(-1)[tokens[0]].item()
        dropped = sum(one.tokens_before - one.num_visual for one in applied.last) if prompt.videos else 0
        found.append({"tokens": tokens, "logprob": first, "prompt": length - dropped})
    return found


SETTINGS = [
    (AOTConfig(retention=1), PIECES),
    (AOTConfig(retention=0.25, attention_power=0.5), PIECES),
    (AOTConfig(retention=0.1), WHOLE),
    (AOTConfig(max_tokens=7, method="visionzip"), PIECES),
]
RUNS = [(family, *settings) for family in ("qwen2_5_vl", "qwen3_vl") for settings in SETTINGS]
RUNS += [("qwen3_5", *settings) for settings in SETTINGS[1:3]]
RUNS += [(family, AOTConfig(retention=0.25), PIECES) for family in ("qwen3_5_moe", "qwen3_vl_moe")]


@pytest.mark.parametrize(("checkpoint", "config", "engine"), RUNS, indirect=["checkpoint"])
def test_answers(vllm_answers, checkpoint, questions, config, engine):
    wanted = own_answers(checkpoint, questions, config)
    if checkpoint.name == "qwen3_vl_moe":
        # published checkpoints have the two sides of an expert the other way round than transformers 5 writes them
        weights = load_file(checkpoint / "model.safetensors")
        turned = {name: (w.mT if ".experts." in name else w).contiguous().clone() for name, w in weights.items()}
        save_file(turned, checkpoint / "model.safetensors", {"format": "pt"})
    overrides = {"architectures": [ARCHITECTURES[checkpoint.name][0]], "aot": config.to_dict()}
    found = vllm_answers(questions, processes=False, model=str(checkpoint), hf_overrides=overrides, **engine)
    check(found, wanted, questions)
    assert (found[-1]["cached"] > 0) == engine["enable_prefix_caching"]


@pytest.fixture(scope="module")
def started(checkpoint):
    """Factory: the configuration that vLLM starts with, without starting it."""
    from vllm import EngineArgs

    def start(settings: dict | None, **arguments):
        overrides = {"architectures": [ARCHITECTURES[checkpoint.name][0]], "aot": settings, "mm_video_frames": 11}
        return EngineArgs(model=str(checkpoint), hf_overrides=overrides, **arguments).create_engine_config()

    return start


def test_vllms_own_check_of_a_family_comes_after_ours(tmp_path, anew):
    """Of Qwen3.5 it takes the precision of states from the checkpoint."""
    from vllm import EngineArgs

    folder = make(tmp_path / "qwen3_5", "qwen3_5")
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["mamba_ssm_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(settings))
    overrides = {"architectures": [ARCHITECTURES["qwen3_5"][0]], "aot": {"retention": 0.1}}
    made = EngineArgs(model=str(folder), hf_overrides=overrides).create_engine_config()
    assert made.cache_config.mamba_ssm_cache_dtype == "bfloat16"


@pytest.fixture
def anew(monkeypatch):
    """As on a GPU."""
    from aot.vllm.startup import CheckedQwen

    monkeypatch.setattr(CheckedQwen, "recomputes_positions", staticmethod(lambda: True))


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        ({"retention": 1.5}, {}, "retention is 1.5; use a number in"),
        ({"retention": 0.1, "distortion": 0.2}, {}, "vLLM must know them in advance"),
        ({"retention": 0.1}, {"video_pruning_rate": 0.5}, "with --video-pruning-rate; leave it out"),
        ({"retention": 0.1}, {"enable_mm_embeds": True}, "with --enable-mm-embeds; leave it out"),
        ({"retention": 0.1}, {"mm_encoder_tp_mode": "data"}, "with --mm-encoder-tp-mode data; leave it out"),
        ({"retention": 0.1}, {"compilation_config": {"compile_mm_encoder": True}}, "with compile_mm_encoder; leave it"),
        ({"retention": 0.1}, {"speculative_config": DRAFTS}, "with --speculative-config; leave it out"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(started, anew, settings, arguments, said):
    with pytest.raises(ValueError, match=said):
        started(settings, **arguments)


def test_a_cpu_is_refused(started):
    with pytest.raises(ValueError, match="On a CPU vLLM does not compute positions anew"):
        started({"retention": 0.1})


def test_places_in_the_prompt(started, anew, checkpoint):
    """Exactly as many as are kept, down to less than a frame has; all that stands around them; settings in the key."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    whole, family = AutoProcessor.from_pretrained(checkpoint), checkpoint.name
    mark, keys = whole.video_token_id, []
    for retention in (1.0, 0.3, 0.01):
        engine = started({"retention": retention}, dtype="bfloat16")
        processor = MULTIMODAL_REGISTRY.create_processor(engine.model_config)
        keys.append(processor.info.model_id)
        most = processor.info.get_mm_max_tokens_per_item(4096, {"video": 1})["video"]
        for frames, height, width in ((14, 8, 8), (12, 40, 24), (5, 16, 64), (2, 96, 96)):
            clip = torch.randint(0, 255, (frames, height, width, 3), dtype=torch.uint8).numpy()
            seen = {**METADATA, "total_num_frames": frames, "frames_indices": list(range(frames))}
            media = processor.info.parse_mm_data({"video": [(clip, {**seen, "do_sample_frames": False})]})
            if frames > 12:  # as many as 11 and the one that fills up the last two
                with pytest.raises(AOTError, match="13 frames and this server takes at most 11"):
                    processor(f"so {VIDEO} what?", media)
                continue
            made = processor(f"so {VIDEO} what?", media)
            ids, (places,) = made["prompt_token_ids"], made["mm_placeholders"]["video"]
            videos = [torch.from_numpy(clip).permute(0, 3, 1, 2)]
            call = {"videos": videos, "video_metadata": [seen], "do_sample_frames": False, "return_tensors": "pt"}
            inputs = whole(text=[f"so {VIDEO} what?"], **call)
            time, rows, columns = inputs["video_grid_thw"][0].tolist()
            per_frame = rows * columns // 4
            assert inputs["input_ids"][0].tolist().count(mark) == time * per_frame
            assert ids.count(mark) == max(1, int(retention * time * per_frame + 1e-9))
            assert [i for i in ids if i != mark] == [i for i in inputs["input_ids"][0].tolist() if i != mark]
            marks = 2 if family == "qwen2_5_vl" else 0  # of which no encoder is asked
            assert places.get_num_embeds() == places.length - marks <= most
            if marks:
                assert made["mm_kwargs"]["video"][0]["second_per_grid_ts"].data == inputs["second_per_grid_ts"][0]
    assert len(set(keys)) == 3
    if family == "qwen2_5_vl":  # its positions count from the mark in front
        with pytest.raises(AssertionError, match="Failed to apply prompt replacement"):
            processor("so <|video_pad|> what?", media)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["Qwen2_5_VL", "Qwen3VL"])
def test_positions(family, dtype):
    """Those that transformers gives the kept tokens in the whole prompt, whatever the pieces that it is read in."""
    from aot.vllm import qwen as plugin

    long = video(90 if family == "Qwen2_5_VL" else 40, 4, 32)  # positions above 256
    parts = (5, image(), 6, long, 7, 8, video(3, 8, 6), video(2, 4, 4), image(6, 4), 9)
    tiny, inputs = qwen(family), batch(family, parts)
    kind = plugin.ReducedRun if family == "Qwen2_5_VL" else plugin.ReducedFrames
    model = kind.__new__(kind)  # without vLLM's
    model.config, model.visual = tiny.config, SimpleNamespace(spatial_merge_size=2, out_hidden_size=12)
    draw = torch.Generator().manual_seed(0)
    positions, ids, kept, rows, features = rope(tiny, inputs)[:, 0], [], [], [], []
    if family == "Qwen2_5_VL":
        names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        of_vllm = vllm_positions(tiny, inputs["input_ids"], **{name: inputs[name] for name in names})[0][:, 0]
        apart = (of_vllm - positions)[:, inputs["input_ids"][0] == VIDEO_ID].unique(dim=1)
        assert apart.shape[1] == 3 and (apart == apart[0]).all()  # the same in each video, behind another start
        positions = of_vllm
    for part in parts:
        run = torch.tensor(row(family, part))
        if isinstance(part, int):
            ids.append(run)
            kept.append(torch.ones(1, dtype=torch.bool))
            continue
        kind, frames, height, width = part
        stays, media = torch.ones(len(run), dtype=torch.bool), run == (VIDEO_ID if kind == "video" else IMAGE_ID)
        offset, length = sum(map(len, ids)) + int(kind == "image"), int(media.sum())
        data, embeds = torch.zeros(length, 12), torch.ones(length, dtype=torch.bool)
        grid = torch.tensor([frames, height, width])
        if kind == "video":  # one of its tokens at least; of frames in front none at all
            stays[media] = (torch.rand(length, generator=draw) < 0.2) & (torch.arange(length) >= length // frames)
            stays[-2] = True
            true, places = run[stays], stays[media].nonzero().squeeze(-1)
            text = true[true != VIDEO_ID]
            if family == "Qwen2_5_VL":
                run, seconds = true, torch.tensor([1.5])
                video_input = {"video_grid_thw": grid[None], "second_per_grid_ts": seconds}
                data = model.run(torch.zeros(len(places), 12), places, video_input, 0)
                embeds = run == VIDEO_ID
            else:
                run = torch.cat([text[:3], true[true == VIDEO_ID], text[3:]])  # 2 for the time, and the mark
                marks = {"is_video_embed": true == VIDEO_ID, "is_vision_start": true == START}
                data = model._get_expanded_positions(video_grid_thw=grid.tolist(), retention_mask=places, **marks)
                data = torch.cat([torch.zeros(len(true), 12), data], dim=1)
                embeds = torch.ones(len(run), dtype=torch.bool)
            length = len(run)
        place = SimpleNamespace(offset=offset, length=length)
        fields = {f"{kind}_grid_thw": grid, "second_per_grid_ts": torch.tensor(1.5)}
        fields = {name: SimpleNamespace(data=value) for name, value in fields.items()}
        features.append(SimpleNamespace(modality=kind, mm_position=place, data=fields))
        ids.append(run)
        kept.append(stays)
        rows.append((data.to(dtype), embeds))
    wanted, ids = positions[:, torch.cat(kept)], torch.cat(ids).tolist()
    assert wanted.max() > 256 and len(ids) == wanted.shape[1]
    start, delta = model.get_mrope_input_positions(ids, features)
    assert delta == wanted.max() + 1 - len(ids) and start.shape == wanted.shape
    for size in (len(ids), 7, 50):
        found = start
        for first in (*range(0, len(ids), size), 0):  # the last time over again, as after a preemption
            read = []
            for feature, (data, embeds) in zip(features, rows, strict=True):
                at = feature.mm_position.offset
                before, behind = (int(embeds[: max(end - at, 0)].sum()) for end in (first, first + size))
                read += [data[before:behind]] if behind > before else []
            cleaned, found, delta = model.recompute_mrope_positions(ids, read, found, first)
            assert all(one.shape[1] == 12 for one in cleaned) and delta == wanted.max() + 1 - len(ids)
        assert torch.equal(found, wanted)
