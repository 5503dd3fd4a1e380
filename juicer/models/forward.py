"""The forward pass of any causal language model: what it says at each position, in the fastest exact way.

The fast way runs the model's body, and its output head only where logits are needed. It is the model's own function
only if nothing else happens between the two, or after the head. Many architectures scale or cap their logits there, and
some have no separate body. So the way is measured once per model, on a shrunken copy: where the fast way, with one of
the known steps after the head, gives the model's own logits, it is taken; otherwise the model's own forward pass.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from juicer.models.building import quiet
from juicer.models.shrunken import LARGEST, VOCABULARY, shrunken
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

AFTER_HEAD: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "logits_scaling": lambda logits, scale: logits / scale,
    "logit_scale": lambda logits, scale: logits * scale,
    "lm_head_multiplier": lambda logits, scale: logits * scale,
    "final_logit_softcapping": lambda logits, cap: cap * torch.tanh(logits / cap),
    "logits_soft_cap": lambda logits, cap: cap * torch.tanh(logits / cap),
}
"""What models do to their logits after the output head, by the constant of the configuration that it takes."""
AGREEMENT = 3e-4
"""Largest difference between logits that are the same but for rounding, in standard deviations (float32)."""
SAME = 1e-5
"""The same for logits that are computed by the same operations."""
LOGIT_DEVIATION = 10.0
"""Standard deviation of a shrunken model's logits: large enough that a cap at 30 shows."""
_ATTRIBUTE = "_juicer_forward"


@dataclass(frozen=True)
class Forward:
    """How logits are computed.

    Attributes:
        own: the model's own forward pass computes them; otherwise its body and its head do.
        after: the constant in `AFTER_HEAD` that is applied after the head; None if nothing is.
    """

    own: bool
    after: str | None = None

    def __str__(self) -> str:
        return "the model's own" if self.own else "fast" if self.after is None else f"fast, with {self.after}"

    def sentence(self) -> str:
        """The same with its noun, for prose."""
        if self.own:
            return "the model's own forward pass"
        return "fast forward pass" if self.after is None else f"fast forward pass with {self.after}"


def forward_of(policy: "PreTrainedModel") -> Forward:
    """The way of this model's forward pass; measured the first time, then kept with the model."""
    known: Forward | None = getattr(policy, _ATTRIBUTE, None)
    if known is None:
        with full_precision():
            known = measured_forward(shrunken_model(policy.config, type(policy)))
        setattr(policy, _ATTRIBUTE, known)
    return known


@contextmanager
def full_precision() -> Iterator[None]:
    """Measure in float32, whatever the precision of the work that asks."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def features(policy: "PreTrainedModel", tokens: Tensor, attention: Tensor | None, **more: Any) -> Tensor:
    """What logits are computed from at each position: the body's hidden states, or the logits themselves.

    Args:
        tokens: (batch, length).
        attention: (batch, length), 1 on real tokens; None if no real token could attend to padding.
        more: other inputs of the model; those that it does not take are left out.

    Returns:
        (batch, length, width or vocabulary), differentiable.
    """
    module = policy if forward_of(policy).own else body_of(policy)
    output = module(input_ids=tokens, attention_mask=attention, **accepted(module, more))
    result: Tensor = output.logits if module is policy else output.last_hidden_state
    return result


def last_features(policy: "PreTrainedModel", tokens: Tensor, attention: Tensor | None, **more: Any) -> Tensor:
    """`features` of the last position alone: (batch, width or vocabulary)."""
    # The model's own forward pass computes the logits of a long prompt only where it is told to.
    return features(policy, tokens, attention, logits_to_keep=1, **more)[:, -1]


def logits_of(policy: "PreTrainedModel", given: Tensor) -> Tensor:
    """The model's logits, from its features. (..., width or vocabulary) to (..., vocabulary) float32."""
    way = forward_of(policy)
    if way.own:
        return given.float()
    logits: Tensor = policy.get_output_embeddings()(given).float()
    return logits if way.after is None else AFTER_HEAD[way.after](logits, _constant(policy.config, way.after))


def body_of(model: "PreTrainedModel") -> Any:
    """The model without its output head; the model itself where it has no such part."""
    body = model.base_model
    if body is model:
        body = getattr(model, "model", model)
    return body


def blocks_of(model: "PreTrainedModel") -> torch.nn.ModuleList | None:
    """The transformer blocks, lowest first; None if there is no list of as many as the configuration says."""
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = (module for module in body_of(model).modules() if isinstance(module, torch.nn.ModuleList))
    return next((each for each in lists if len(each) == count), None)


def accepted(module: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `inputs` that the module's forward pass names, without values that are None."""
    names = parameters_of(module)
    return {name: value for name, value in inputs.items() if name in names and value is not None}


def parameters_of(module: torch.nn.Module) -> frozenset[str]:
    """The names of the inputs of a module's forward pass."""
    return _parameters(type(module).forward)


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def _constant(config: "PretrainedConfig", name: str) -> float:
    return float(getattr(config.get_text_config(decoder=True), name))


def shrunken_model(
    config: "PretrainedConfig", kind: Any = None, attention: str | None = None, seed: int = 0
) -> "PreTrainedModel":
    """A tiny random model in float32 on the CPU with the architecture of `config`, in evaluation mode.

    Its weights are larger than those of a new model, so that every part of it shows in the logits. torch's generators
    are left as they were.

    Args:
        kind: the model's class; by default the one that transformers has for causal language models.
        attention: the attention implementation; None is the one of `config`, or transformers' default.

    Raises:
        InputError: transformers cannot build it, or it cannot be made small.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            small = shrunken(config)
            small._attn_implementation = attention or getattr(config, "_attn_implementation", None)
            build = AutoModelForCausalLM.from_config if kind is None else kind._from_config
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in build(small).parameters())
            if size > LARGEST:
                raise ValueError(f"its smallest form has {size:,} parameters")
            model: PreTrainedModel = build(small, dtype=torch.float32).eval()
            _enlarge(model)
        except Exception as error:  # whatever a configuration makes the model's own code raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            what = f"a small random copy of the model, on which it is checked, cannot be built: {reason}"
            do = "check its config.json; if transformers loads the model, report its architecture"
            raise InputError(what, where=str(config.name_or_path or config.model_type), do=do) from error
    return model


@torch.no_grad()
def _enlarge(model: "PreTrainedModel") -> None:
    """Scale weights so that no block vanishes beside its residual and logits have a deviation of `LOGIT_DEVIATION`."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and parameter.is_floating_point() and min(parameter.shape) > 1 and "A_log" not in name:
            parameter.normal_(0, parameter.shape[1] ** -0.5)
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        return
    deviation = float(model(input_ids=example_tokens(1, 8)).logits.float().std())
    if deviation > 0:
        head.weight.mul_(LOGIT_DEVIATION / deviation)


def example_tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    """(rows, length) random token ids that are not special in a shrunken model."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(16, VOCABULARY - 16, (rows, length), generator=generator)


def measured_forward(model: "PreTrainedModel") -> Forward:
    """The fastest way whose logits are those of the model itself, measured on a (shrunken) model."""
    with full_precision():
        tokens = example_tokens(2, 12)
        wanted = model(input_ids=tokens).logits.float()
        for way in _fast_ways(model.config):
            with _taken(model, way):
                try:
                    found = logits_of(model, features(model, tokens, None))
                except Exception:  # noqa: S112  the architecture has no such body or head
                    continue
            if agree(found, wanted, SAME):
                return way
    return Forward(own=True)


def _fast_ways(config: "PretrainedConfig") -> Iterator[Forward]:
    yield Forward(own=False)
    for name in AFTER_HEAD:
        if isinstance(getattr(config.get_text_config(decoder=True), name, None), int | float):
            yield Forward(own=False, after=name)


@contextmanager
def _taken(model: "PreTrainedModel", way: Forward) -> Iterator[None]:
    setattr(model, _ATTRIBUTE, way)
    try:
        yield
    finally:
        delattr(model, _ATTRIBUTE)


def agree(found: Tensor, wanted: Tensor, tolerance: float = AGREEMENT) -> bool:
    """Whether logits are the same up to rounding."""
    if found.shape != wanted.shape or not bool(torch.isfinite(found).all()):
        return False
    deviation = float(wanted.detach().std()) or 1.0
    return float((found - wanted).detach().abs().max()) <= tolerance * deviation


@torch.no_grad()
def confirm_forward(policy: "PreTrainedModel") -> None:
    """Compare the way of the forward pass with the loaded model itself, on a few tokens.

    Where they disagree, which a shrunken model did not show, the model's own way is taken.
    """
    if forward_of(policy).own:
        return
    vocabulary = policy.config.get_text_config(decoder=True).vocab_size
    tokens = torch.arange(1, 9, device=policy.device)[None] * max(1, vocabulary // 10)
    wanted = policy(input_ids=tokens).logits.float()
    found = logits_of(policy, features(policy, tokens, None))
    # In bf16, models round between the head and what follows it.
    if not agree(found, wanted, AGREEMENT if policy.dtype == torch.float32 else 0.05):
        setattr(policy, _ATTRIBUTE, Forward(own=True))


def usable_attention(config: "PretrainedConfig", wanted: str, *, only: bool = False) -> str:
    """The attention implementation to load a model with: `wanted` if it is exact for the model, else the next one.

    transformers' `sdpa` leaves out the cap that some models put on their attention, so it is compared with `eager`,
    which is written out, on a shrunken model. Flash attention is only asked whether it supports the model.

    Args:
        wanted: flash_attention_2, sdpa or eager.
        only: whether no other one may take its place.

    Raises:
        InputError: transformers cannot build the model at all, or the only one is not exact for it.
    """
    found = _exact_attention(config, wanted)
    if only and found != wanted:
        what = f"compute.attention is {wanted}, which is not exact for a {config.model_type} model"
        do = f"set compute.attention to auto, which takes the exact {found} here"
        raise InputError(what, where=str(config.name_or_path or config.model_type), do=do)
    return found


def _exact_attention(config: "PretrainedConfig", wanted: str) -> str:
    order = ("flash_attention_2", "sdpa", "eager")
    for name in order[order.index(wanted) :]:
        if name == "eager":
            return name
        if name == "flash_attention_2":
            if _supports_flash(config):
                return name
            continue
        try:
            model = shrunken_model(config, attention=name)
        except InputError:
            continue
        with full_precision():
            tokens = example_tokens(2, 12)
            found = model(input_ids=tokens).logits.float()
            model.set_attn_implementation("eager")
            exact = model(input_ids=tokens).logits.float()
        if agree(found, exact):
            return name
    return "eager"


def _supports_flash(config: "PretrainedConfig") -> bool:
    from transformers import AutoModelForCausalLM

    try:
        kind = AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        return False
    return bool(getattr(kind, "_supports_flash_attn", False))
