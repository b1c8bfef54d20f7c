"""vLLM's linear attention on a CPU in float32, where its own is there for bfloat16 alone.

Only the operation itself is replaced, by transformers' for one token after the other. Which tokens come, whose state
they go on from and where it is kept is vLLM's.
"""

import torch
import torch.nn.functional as F
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention
from vllm.utils.torch_utils import LayerNameType, _resolve_layer_name


def install() -> None:
    """Before a model is made."""
    gdn_attention.cpu_gdn_attention_core = attend


def attend(
    mixed_qkv: torch.Tensor, b: torch.Tensor, a: torch.Tensor, core_attn_out: torch.Tensor, layer_name: LayerNameType
) -> None:
    """Of each request the tokens that are read now, (n, C) -> core_attn_out (n, heads, d), and its state after them."""
    context, name = get_forward_context(), _resolve_layer_name(layer_name)
    layer = context.no_compile_layers[name]
    if context.attn_metadata is None:  # while memory is measured
        return
    told = context.attn_metadata[layer.prefix]
    known = [True] * told.num_decodes
    if told.num_prefills:
        known = told.has_initial_state.tolist()
    weight = getattr(layer.conv1d, "_cpu_unpacked_conv_weight", layer.conv1d.weight).view(mixed_qkv.shape[1], 1, -1)
    ends = told.non_spec_query_start_loc.tolist()
    for number, slot in enumerate(told.non_spec_state_indices_tensor.tolist()):
        part = slice(ends[number], ends[number + 1])
        seen, state = (cache[slot] for cache in layer.kv_cache)
        if not known[number]:
            seen.zero_()
            state.zero_()
        window = torch.cat([seen, mixed_qkv[part]])
        seen.copy_(window[-len(seen) :])
        query, key, value = layer.rearrange_mixed_qkv(F.silu(F.conv1d(window.T, weight, groups=len(weight))).T)
        repeats = value.shape[2] // key.shape[2]
        found, left = torch_recurrent_gated_delta_rule(
            query.repeat_interleave(repeats, dim=2),
            key.repeat_interleave(repeats, dim=2),
            value,
            g=-layer.A_log.exp() * F.softplus(a[part] + layer.dt_bias)[None],
            beta=b[part].sigmoid()[None],
            initial_state=state.view(1, state.shape[0], key.shape[-1], value.shape[-1]),
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        core_attn_out[part] = found[0]
        state.copy_(left.view_as(state))
