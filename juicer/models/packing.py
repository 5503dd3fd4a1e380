"""Dialogues one after another in a single row, without padding: what a GPU computes fastest.

Each dialogue has positions of its own and attends to itself alone. The bounds of the dialogues reach the attention
function through the model as transformers passes them to flash attention (`cu_seq_lens_q` and so on). Whether a model
says of a packed dialogue what it says of it alone is measured on a shrunken copy, once per model.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from juicer.data.dialogues import Dialogue
from juicer.models.forward import agree, blocks_of, body_of, example_tokens, forward_of, full_precision, shrunken_model
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VARLEN = "juicer_varlen"
"""Name under which `packed_attention` is registered with transformers."""
MULTIPLE = 8
"""A row is filled up to a multiple of this many tokens, which matrix products on a GPU are laid out in."""
WIDEST = 256
"""Width of a head that torch's kernel computes, at most."""
_ATTRIBUTE = "_juicer_packs"


@dataclass(frozen=True)
class PackedBatch:
    """Dialogues in one row; a last short one of any token may fill it up.

    Attributes:
        tokens: (1, length) int64.
        positions: (1, length) int64; they start at 0 in every dialogue.
        bounds: (dialogues + 1,) int32, where each begins, and the length; one more if the row is filled up.
        longest: tokens of the longest dialogue.
        sources: (predictions,) int64, the positions in the row whose features predict a response token.
        targets: (predictions,) int64, that token.
        rows: (predictions,) int64, the number of the dialogue that the token belongs to.
        ends: (dialogues,) int64, the position of each dialogue's last token.
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    longest: int
    sources: Tensor
    targets: Tensor
    rows: Tensor
    ends: Tensor

    @staticmethod
    def of(dialogues: Sequence[Dialogue], padding: int, device: torch.device) -> "PackedBatch":
        """Pack `dialogues` in their order; `padding` is any token id, no dialogue attends to it."""
        lengths = [len(dialogue) for dialogue in dialogues]
        filled = lengths + ([spare] if (spare := -sum(lengths) % MULTIPLE) else [])
        tokens = [token for dialogue in dialogues for part in (dialogue.prompt, dialogue.response) for token in part]
        starts = [0, *accumulate(filled)]
        positions = torch.cat([torch.arange(length) for length in filled])
        sources = [
            torch.arange(start + len(dialogue.prompt) - 1, start + len(dialogue) - 1)
            for start, dialogue in zip(starts, dialogues, strict=False)
        ]
        responses = torch.tensor([len(dialogue.response) for dialogue in dialogues])
        row = torch.tensor(tokens + [padding] * spare)
        where = torch.cat(sources)
        ends = torch.tensor(starts[1 : len(lengths) + 1]) - 1
        rows = torch.repeat_interleave(torch.arange(len(dialogues)), responses)
        # One copy to the device instead of seven.
        parts = (row, positions, where, row[where + 1], rows, ends, torch.tensor(starts))
        sizes = [len(part) for part in parts]
        row, positions, where, targets, rows, ends, bounds = on_device(torch.cat(parts), device).split(sizes)
        return PackedBatch(row[None], positions[None], bounds.int(), max(filled), where, targets, rows, ends)

    def inputs(self) -> dict[str, Any]:
        """What a model's forward pass takes."""
        return {
            "input_ids": self.tokens,
            "position_ids": self.positions,
            "use_cache": False,
            "cu_seq_lens_q": self.bounds,
            "cu_seq_lens_k": self.bounds,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; on a GPU by a copy that nothing waits for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def packed_features(policy: "PreTrainedModel", batch: PackedBatch) -> Tensor:
    """The model's features (`juicer.models.forward.features`) at each position of the row.

    Call it within `packed_passes`.

    Returns:
        (length, width or vocabulary), differentiable.
    """
    module = policy if forward_of(policy).own else body_of(policy)
    output = module(**batch.inputs())
    result: Tensor = output.logits if module is policy else output.last_hidden_state
    return result[0]


def packed_hidden(model: "PreTrainedModel", batch: PackedBatch) -> Tensor:
    """The hidden states of a model's trunk at each position of the row: (length, width), differentiable."""
    result: Tensor = model.base_model(**batch.inputs()).last_hidden_state
    return result[0]


@contextmanager
def packed_passes(*models: "PreTrainedModel", compiled: bool = False) -> Iterator[None]:
    """Within the block the models attend as `PackedBatch` says, in forward passes, recomputed ones and backward passes.

    Args:
        compiled: whether each transformer block is compiled by torch, for rows of any length.
    """
    from transformers import AttentionInterface

    # The compiler cannot trace a signature, so it is read here.
    AttentionInterface.register(VARLEN, partial(packed_attention, known=kernel_parameters()))
    with ExitStack() as entered:
        for model in models:
            entered.enter_context(_attending(model, VARLEN))
            if compiled:
                entered.enter_context(_compiled(model))
        yield


@contextmanager
def padded_passes(model: "PreTrainedModel", attention: str) -> Iterator[None]:
    """Within `packed_passes`, a block in which the model computes padded rows again, as decoding does.

    Args:
        attention: the implementation that the model was loaded with.
    """
    blocks = blocks_of(model) or ()
    compiled = [(block, block._compiled_call_impl) for block in blocks]
    for block in blocks:
        block._compiled_call_impl = None
    try:
        with _attending(model, attention):
            yield
    finally:
        for block, call in compiled:
            block._compiled_call_impl = call


@contextmanager
def _attending(model: "PreTrainedModel", name: str) -> Iterator[None]:
    if model.get_output_embeddings() is not None:
        forward_of(model)  # measured before, on a small copy that attends as the configuration says
    # Layers look the name up in the configuration at every pass.
    configs = {id(each): each for each in (model.config, model.config.get_text_config(decoder=True))}.values()
    before = [(config, config._attn_implementation) for config in configs]
    for config in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, former in before:
            config._attn_implementation = former


@contextmanager
def _compiled(model: "PreTrainedModel") -> Iterator[None]:
    """Each block compiled: one graph serves all blocks, so this is faster to compile than the whole model."""
    blocks = blocks_of(model) or ()
    # On a CPU only traced, which shows that a GPU would have one graph for all lengths.
    backend = "eager" if model.device.type == "cpu" else "inductor"
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    *,
    known: frozenset[str],
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each dialogue to itself, as transformers calls it.

    On a GPU in 16 bits by torch's kernel for variable lengths, elsewhere by a mask.

    Args:
        query: (1, heads, length, width); keys and values may have fewer heads.
        sliding_window: positions that a token attends to, itself included; None for all.
        known: the names of the arguments of torch's kernel, which differ by release.

    Returns:
        (1, length, heads, width), and no weights.

    Raises:
        NotImplementedError: the model asks for something that this does not compute. `can_pack` is then false.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise NotImplementedError(f"{type(module).__name__} does not pass the bounds of packed dialogues on")
    if dropout or softcap is not None or s_aux is not None or attention_mask is not None:
        raise NotImplementedError(f"packed attention lacks what {type(module).__name__} asks for")
    if has_kernel(query, value):
        # Rotations may have made float32 of queries and keys, which autocast does not see here.
        q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))
        result = varlen(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window, known)
        return result[None], None
    mask = block_mask(cu_seq_lens_q, query.shape[2], sliding_window)
    shared = query.shape[1] != key.shape[1]
    attended = scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=shared)
    return attended.transpose(1, 2).contiguous(), None


def has_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether torch's kernel for variable lengths computes with these: on a GPU, in 16 bits, in heads not too wide."""
    return value.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= WIDEST


def packed_attention_of(device: torch.device, *, lower: bool) -> str:
    """What computes attention in packed rows: torch's kernel, or a mask."""
    return "varlen" if device.type == "cuda" and lower else "mask"


def block_mask(bounds: Tensor, length: int, window: int | None = None) -> Tensor:
    """Whether the row's token may attend to the column's: (length, length) bool."""
    places = torch.arange(length, device=bounds.device)
    dialogue = torch.bucketize(places, bounds[1:].long(), right=True)
    mask = (dialogue[:, None] == dialogue[None]) & (places[:, None] >= places[None])
    return mask if window is None else mask & (places[:, None] - window < places[None])


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
    known: frozenset[str],
) -> Tensor:
    """torch's attention for variable lengths: (length, heads, width) in and out."""
    width, wider = value.shape[2], query.shape[2] - value.shape[2]
    if wider > 0:  # in multi-head latent attention; the kernel takes one width
        value = pad(value, (0, wider))
    if key.shape[1] != query.shape[1] and "enable_gqa" not in known:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    more: dict[str, Any] = {"enable_gqa": True} if key.shape[1] != query.shape[1] else {}
    if scale is not None:
        if "scale" in known:
            more["scale"] = scale
        else:
            query = query * (scale * query.shape[2] ** 0.5)
    if "window_size" in known:
        more["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is not None and window < longest:
        raise NotImplementedError("this release of torch has no sliding window for packed rows")
    else:
        more["is_causal"] = True
    result = kernel()(query, key, value, bounds, bounds, longest, longest, **more)
    assert isinstance(result, Tensor)  # without the auxiliary values, which are not asked for
    return result[..., :width] if wider > 0 else result


def kernel() -> Callable[..., Any]:
    """torch's attention for variable lengths."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def kernel_parameters() -> frozenset[str]:
    """The names of its arguments, which differ by release."""
    return frozenset(inspect.signature(kernel()).parameters)


def can_pack(model: "PreTrainedModel") -> bool:
    """Whether a model says of packed dialogues what it says of each alone; measured once, then kept with the model."""
    known: bool | None = getattr(model, _ATTRIBUTE, None)
    if known is None:
        try:
            with full_precision():
                known = measured_packing(shrunken_model(model.config))
        except InputError:  # no small copy can be built
            known = False
        setattr(model, _ATTRIBUTE, known)
    return known


@torch.no_grad()
def measured_packing(model: "PreTrainedModel") -> bool:
    """Whether a (shrunken) model says the same of packed dialogues as of each alone; one is longer than any window."""
    lengths = (11, 4, 7)
    tokens = example_tokens(3, max(lengths))
    dialogues = [
        Dialogue(row[:1].tolist(), row[1:length].tolist()) for row, length in zip(tokens, lengths, strict=True)
    ]
    try:
        with packed_passes(model):
            batch = PackedBatch.of(dialogues, 0, tokens.device)
            found = model(**batch.inputs()).logits[0].float()
    except Exception:  # whatever an architecture that cannot pack raises
        return False
    places = [0, *accumulate(lengths)]
    alone = [model(input_ids=row[None, :n]).logits[0].float() for row, n in zip(tokens, lengths, strict=True)]
    return all(agree(found[start:end], wanted) for start, end, wanted in zip(places, places[1:], alone, strict=False))
