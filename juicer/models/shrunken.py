"""A model of a few thousand random weights with the architecture of another: the same code and constants, tiny sizes.

What is true of the architecture (where its body is, what it does after the head, how its cache works) is measured on it
within milliseconds.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

VOCABULARY = 96
WIDTH = 64
HEADS = 4
HEAD_WIDTH = WIDTH // HEADS
INNER = 96
WINDOW = 6
"""Tokens of a sliding window: shorter than the sequences of the probe, so that a window that is ignored is seen."""
SSM_HEADS = 8
MOST_LAYERS = 16
LARGEST = 4_000_000
"""Parameters of a shrunken model; one with more was not shrunk."""

SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "embedding_dim", "emb_dim", "dim"), WIDTH),
    **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("router_hidden_size",), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("head_dim", "kv_channels", "dim_head", "attention_head_size", "swa_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("d_head", "global_head_dim", "d_kv"), HEAD_WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "dff", "dim_ff", "d_inner"), INNER),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "intermediate_size_mlp", "feed_forward_size"), INNER),
    **dict.fromkeys(
        ("n_inner", "shared_intermediate_size", "dense_intermediate_size", "expert_ffn_hidden_size"), INNER
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("zero_expert_num",), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "o_groups"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "gated_norm_rank", "hc_lowrank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "qk_rope_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("qk_head_dim",), 2 * HEAD_WIDTH),
    **dict.fromkeys(("index_head_dim",), 2 * HEAD_WIDTH),
    **dict.fromkeys(("index_n_heads",), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"), HEADS),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), HEAD_WIDTH),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    **dict.fromkeys(("mamba_d_ssm",), 128),
    **dict.fromkeys(("mamba_chunk_size",), 8),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank", "adapter_rank", "laurel_rank"), 8),
    **dict.fromkeys(("attention_head_dim",), 2 * HEAD_WIDTH),
    **dict.fromkeys(("hidden_size_per_layer_input", "ple_embed_dim"), 16),
    **dict.fromkeys(("rotary_dim",), 8),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size"), WINDOW),
    **dict.fromkeys(("attention_window_size", "local_attention", "keep_window_size"), WINDOW),
    **dict.fromkeys(("max_seq_len", "model_max_length"), 256),
}
"""New values of sizes, where the configuration has them; a larger value is replaced, a smaller one stays."""
WIDTHS = ("hidden_size", "d_model", "n_embd", "embedding_dim")
PROPORTIONAL = ("lru_width", "attention_hidden_size", "dim_model_base")
"""Sizes that are given as multiples of the width."""
HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
DENSE = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""How many of the lowest layers have no experts."""
COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_blocks",
    "num_encoder_layers",
    "num_decoder_layers",
)
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
KEYS_AND_VALUES = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups")


def shrunken(config: "PretrainedConfig") -> "PretrainedConfig":
    """A configuration with the same class, layer kinds, constants and switches, and tiny sizes."""
    values = config.to_dict()
    _shrink(values, config)
    return type(config).from_dict(values)


def _shrink(values: dict[str, Any], config: Any) -> None:
    """Replace sizes, in the configurations inside of a configuration too."""
    for key, inner in values.items():
        if isinstance(inner, dict) and hasattr(getattr(config, key, None), "to_dict"):
            _shrink(inner, getattr(config, key))
    layers = next((values[key] for key in COUNTS if _is_count(values.get(key))), None)
    if layers:
        _shrink_layers(values, layers, _layers(values, config, layers))
    width = next((values[key] for key in WIDTHS if _is_count(values.get(key))), WIDTH)
    heads = next((values[key] for key in HEAD_COUNTS if _is_count(values.get(key))), HEADS)
    vocabulary = values.get("vocab_size") or 0
    for key, value in values.items():
        if key in KEYS_AND_VALUES:
            values[key] = HEADS if value in (None, heads) else 1 if value == 1 else 2
        elif key in PROPORTIONAL and _is_count(value):
            values[key] = max(1, WIDTH * value // width)
        elif "vocab_size" in key and _is_count(value):
            # A vocabulary that is cut or extended stays so.
            values[key] = VOCABULARY if value >= vocabulary else VOCABULARY - 8
        elif key in TOKENS and value is not None:
            values[key] = TOKENS.index(key)
        elif key == "head_dim" and value is None:
            values[key] = HEAD_WIDTH  # which is what None stands for, but some code does not accept it
        elif key in SIZES and _is_count(value):
            values[key] = min(value, SIZES[key])
        elif key in SIZES and isinstance(value, list) and all(map(_is_count, value)):
            values[key] = [min(each, SIZES[key]) for each in value]
    _make_consistent(values, min(width, WIDTH))
    _cut_factors(values)


def _shrink_layers(values: dict[str, Any], layers: int, kept: int) -> None:
    """Keep the lowest `kept` of `layers` layers, in lists of one value per layer and in lists of layers too."""
    for key, value in values.items():
        if key in COUNTS and _is_count(value):
            values[key] = min(value, kept)
        elif isinstance(value, list | tuple) and len(value) == layers:
            values[key] = list(value)[:kept]
        elif key.endswith(("_layers", "_ids", "_indices", "_idxs")) and isinstance(value, list | tuple):
            values[key] = [each for each in value if not isinstance(each, int) or each < kept]
        elif key == "per_layer_config" and value:
            values[key] = {at: _own_sizes(own) for at, own in value.items() if int(at) < kept}
    for key, most in (("num_kv_shared_layers", kept // 2), *((key, 1) for key in DENSE)):
        if _is_count(values.get(key)):
            values[key] = min(values[key], most)


def _own_sizes(own: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that one layer has for itself: wider heads stay wider."""
    shared = dict.fromkeys((*KEYS_AND_VALUES, *HEAD_COUNTS), HEADS)
    wider = {name: 2 * SIZES[name] for name in own if name.endswith("head_dim") and name in SIZES}
    return {name: (SIZES | shared | wider).get(name, value) for name, value in own.items()}


def _make_consistent(values: dict[str, Any], width: int) -> None:
    """Sizes that follow from others: state-space heads share the inner width, stacks share the layers."""
    inner = values.get("mamba_d_ssm") or width * (values.get("mamba_expand") or values.get("expand") or 2)
    pairs = [("mamba_n_heads", "mamba_d_head"), ("n_mamba_heads", "mamba_headdim")]
    pairs += [("num_heads", "head_dim")] if "expand" in values else []
    for count, size in pairs:
        if _is_count(values.get(count)) and _is_count(values.get(size)):
            values[count], values[size] = SSM_HEADS, inner // SSM_HEADS
    if _is_count(values.get("num_layers_per_stack")):
        values["num_layers_per_stack"] = 1


def _cut_factors(values: dict[str, Any]) -> None:
    """Keep as many of LongRoPE's factors as a shrunken head rotates pairs of its width."""
    for scaling in (values.get("rope_parameters"), values.get("rope_scaling")):
        if not isinstance(scaling, dict):
            continue
        share = scaling.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
        pairs = int((values.get("head_dim") or HEAD_WIDTH) * share) // 2
        for name in ("short_factor", "long_factor"):
            if isinstance(scaling.get(name), list):
                scaling[name] = scaling[name][:pairs] + [1.0] * (pairs - len(scaling[name]))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _layers(values: Mapping[str, Any], config: Any, layers: int) -> int:
    """The number of lowest layers in which each kind of layer occurs; at least 2.

    Layers that share weights with others of their kind (`hybrid`) occur twice.
    """
    if _is_count(values.get("num_layers_per_stack")):
        return int(max(2, layers // values["num_layers_per_stack"]))
    own = values.get("per_layer_config") or {}
    found = [*values.values(), [str(own.get(at, own.get(f"{at:02}"))) for at in range(layers)]]
    found += [getattr(config, name, None) for name in ("layer_types", "layers_block_type", "mlp_layer_types")]
    lists = [value for value in found if isinstance(value, list | tuple) and len(value) == layers]
    kinds = list(map(repr, zip(*lists, strict=True)))
    wanted = {kind: min(2 if "hybrid" in kind else 1, kinds.count(kind)) for kind in set(kinds)}
    patterns = [value for value in found if isinstance(value, list | tuple) and value and isinstance(value[0], str)]
    shortest = max([2, *(len(each) for each in patterns if len(each) < min(layers, MOST_LAYERS))])
    for count in range(shortest, min(layers, MOST_LAYERS)):
        if all(kinds[:count].count(kind) >= number for kind, number in wanted.items()):
            return count
    return min(layers, MOST_LAYERS)
