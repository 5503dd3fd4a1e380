"""Whether Juicer is exact on an architecture, found in about a second on a shrunken random model, before any work.

What would be silently wrong on a model is refused in one line that says what does not hold.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from juicer.data.dialogues import Dialogue
from juicer.methods.reward import freeze_blocks, rewards
from juicer.models.building import quiet
from juicer.models.forward import (
    Forward,
    agree,
    example_tokens,
    forward_of,
    shrunken_model,
    usable_attention,
)
from juicer.models.loading import skip_deepspeed_import
from juicer.models.log_probability import Batch, compute_in_chunks, response_log_probabilities
from juicer.quickstart.configuration import read_config
from juicer.runtime.errors import InputError
from juicer.sampling.steppers import CacheKind, measured_cache
from juicer.settings.training import LoraSettings
from juicer.training.adapters import add_adapters, merge_adapters
from juicer.training.loop import recompute_activations

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

DIALOGUES = ((9, 4), (3, 8), (6, 1))
"""Lengths of prompts and responses."""
SHARE = 1e-3
"""Largest difference between gradients, or rewards, that are the same, relative to the largest of them."""


@dataclass(frozen=True)
class Probed:
    """How a model is computed.

    Attributes:
        attention: the attention implementation on a CPU.
        forward: the way of the forward pass.
        cache: the cache of sampling.
    """

    attention: str
    forward: Forward
    cache: CacheKind

    def __str__(self) -> str:
        caches = {"buffered": "a buffered cache", "own": "the model's own cache", "none": "no cache (slow)"}
        return f"{self.forward.sentence()}, {caches[self.cache]}, {self.attention} attention"


def probe_policy(
    config: "PretrainedConfig",
    *,
    where: str,
    training: bool = True,
    lora: LoraSettings | None = None,
    recompute: bool = False,
    attention: str = "auto",
) -> Probed:
    """Check everything that Juicer relies on for a policy of this configuration.

    Args:
        where: names the model in errors.
        training: whether gradients, a step and saving are checked too; evaluation needs none of them.
        lora: the adapters of the recipe, if it has some.
        recompute: whether the recipe recomputes activations.
        attention: the recipe's `compute.attention`, which no other may replace. Flash attention needs a GPU and is
            only asked whether it has the model.

    Raises:
        InputError: something does not hold; says what.
    """

    def refuse(what: str) -> InputError:
        return InputError(f"Juicer is not exact on {type(model).__name__}: {what}", where=where, do="use another model")

    try:
        if attention == "flash_attention_2":
            usable_attention(config, attention, only=True)
        asked = attention if attention in ("sdpa", "eager") else "sdpa"
        attention = usable_attention(config, asked, only=attention == asked)
        model = shrunken_model(config, attention=attention)
    except InputError as error:
        raise InputError(error.what, where=where, do=error.do) from error
    with _failing_as(refuse, "its forward pass"), torch.no_grad():
        if not _is_causal(model):
            raise refuse("a token changes the logits before it, so it is no causal language model (is_decoder?)")
        forward = forward_of(model)
        if not _log_probabilities_agree(model):
            raise refuse("log-probabilities in a padded batch are not those of the model's own logits")
    cache = measured_cache(model)
    if cache is None:
        raise refuse("no way of sampling agrees with its own logits")
    if training:
        with _failing_as(refuse, "a training step"):
            _check_gradients(model, refuse, recompute=recompute)
        with _failing_as(refuse, "saving and loading"):
            _check_saving(model, refuse)
        if lora is not None:
            with _failing_as(refuse, "a step with LoRA"):
                _check_adapters(model, lora, refuse)
    return Probed(attention, forward, cache)


def probe_reward(config: "PretrainedConfig", *, where: str, frozen_blocks: int = 0) -> None:
    """Check that a reward model can be built from this configuration and is read where the model itself reads it.

    Raises:
        InputError: it cannot, or another token is read; says what.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(config)
    config.num_labels = 1

    def refuse(what: str) -> InputError:
        return InputError(f"no reward can be made of this model: {what}", where=where, do="set rft.reward.model")

    try:
        kind: Any = AutoModelForSequenceClassification._model_mapping[type(config)]
    except KeyError as error:
        raise refuse(f"transformers has no sequence classifier of the type {config.model_type}") from error
    try:
        model = shrunken_model(config, kind)
    except InputError as error:
        raise refuse(error.what) from error
    if not hasattr(model, "score"):
        raise refuse(f"{kind.__name__} has no scalar head named `score`")
    with _failing_as(refuse, "its forward pass"), torch.no_grad():
        dialogues = _dialogues()
        found = compute_in_chunks(partial(rewards, model), dialogues, 0, model.device)
        own = [model(input_ids=torch.tensor([each.prompt + each.response])).logits[0, 0] for each in dialogues]
        if not _close(found, torch.stack(own).float()):
            raise refuse("the reward at the last token is not the score that the model itself gives")
    if frozen_blocks:
        freeze_blocks(model, 1)


def probe_folder(folder: Path, where: str) -> None:
    """Probe the model in a folder, if it is a causal language model; scorers are not.

    Raises:
        InputError: something does not hold; says what.
    """
    architecture, config = read_config(folder / "config.json")
    if "CausalLM" in architecture or "LMHead" in architecture:
        probe_policy(config, where=where)


def _dialogues() -> list[Dialogue]:
    rows = example_tokens(len(DIALOGUES), max(map(sum, DIALOGUES))).tolist()
    return [
        Dialogue(row[:prompt], row[prompt : prompt + response])
        for row, (prompt, response) in zip(rows, DIALOGUES, strict=True)
    ]


def _is_causal(model: "PreTrainedModel") -> bool:
    tokens = example_tokens(1, 12)
    before = model(input_ids=tokens).logits[:, :-1].float()
    changed = torch.cat([tokens[:, :-1], tokens[:, -1:] + 1], dim=1)
    return agree(model(input_ids=changed).logits[:, :-1].float(), before)


def _own_log_probabilities(model: "PreTrainedModel", dialogues: list[Dialogue]) -> Tensor:
    """log pi(y|x) from the model's own logits, one dialogue at a time."""
    totals = []
    for each in dialogues:
        tokens = torch.tensor([each.prompt + each.response])
        logits = model(input_ids=tokens).logits[0, len(each.prompt) - 1 : -1].float()
        totals.append(logits.log_softmax(-1).gather(1, tokens[0, len(each.prompt) :, None]).sum())
    return torch.stack(totals)


def _log_probabilities_agree(model: "PreTrainedModel") -> bool:
    dialogues = _dialogues()
    found = response_log_probabilities(model, Batch.of(dialogues, 0, model.device))
    return _close(found, _own_log_probabilities(model, dialogues))


def _close(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).abs().max()) <= SHARE * max(1e-6, float(wanted.abs().max()))


def _check_gradients(model: "PreTrainedModel", refuse: Callable[[str], InputError], *, recompute: bool) -> None:
    """One full step: the gradient is that of the model's own logits, and reaches its blocks."""
    dialogues = _dialogues()
    trained = copy.deepcopy(model)  # before a pass that needs gradients, which some models keep a part of
    own = _gradients(model, -_own_log_probabilities(model, dialogues).sum())
    if recompute:
        if not model.supports_gradient_checkpointing:
            raise refuse("it cannot recompute activations (gradient_checkpointing)")
        recompute_activations(trained)
    ours = _gradients(trained, -response_log_probabilities(trained, Batch.of(dialogues, 0, model.device)).sum())
    largest = max(float(gradient.abs().max()) for gradient in own.values())
    for name, wanted in own.items():
        # Some gradients are 0 but for rounding, for example those of a bias that attention cancels.
        scale = max(float(wanted.abs().max()), SHARE * largest)
        if name not in ours or float((ours[name] - wanted).abs().max()) > SHARE * scale:
            raise refuse(f"the gradient of {name} is not that of the model's own logits")
    count = len(list(model.parameters()))
    if len(own) < count // 4:
        raise refuse(f"a step changes only {len(own)} of its {count} tensors")


def _gradients(model: "PreTrainedModel", loss: Tensor) -> dict[str, Tensor]:
    """The gradients that are not zero, by parameter."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    pairs = zip(named, found, strict=True)
    return {name: gradient for (name, _), gradient in pairs if gradient is not None and bool(gradient.any())}


def _check_adapters(model: "PreTrainedModel", lora: LoraSettings, refuse: Callable[[str], InputError]) -> None:
    """One step with adapters: only they train, and merging them keeps what the model says."""
    policy, dialogues = copy.deepcopy(model), _dialogues()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    handle = add_adapters(policy, lora.model_copy(update={"r": min(lora.r, 4)}), seed=0)
    trained = [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
    if not trained or not all("lora_" in name for name, _ in trained):
        raise refuse("LoRA trains other weights than its adapters")
    optimiser = torch.optim.SGD([parameter for _, parameter in trained], lr=1e-3)
    (-response_log_probabilities(policy, Batch.of(dialogues, 0, model.device)).sum()).backward()
    optimiser.step()
    tokens = example_tokens(2, 12)
    with torch.no_grad():
        adapted, plain = policy(input_ids=tokens).logits.float(), model(input_ids=tokens).logits.float()
        if torch.equal(adapted, plain):
            raise refuse("a step with LoRA changes nothing")
        merge_adapters(handle)
        if policy.state_dict().keys() != before.keys() or not agree(policy(input_ids=tokens).logits.float(), adapted):
            raise refuse("merging LoRA's adapters changes what the model says")


def _check_saving(model: "PreTrainedModel", refuse: Callable[[str], InputError]) -> None:
    tokens = example_tokens(2, 12)
    skip_deepspeed_import()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), quiet():
        model.save_pretrained(folder)
        if not list(Path(folder).glob("*.safetensors")):
            raise refuse("it is not saved as safetensors")
        kind: Any = type(model)
        loaded, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation=model.config._attn_implementation,
        )
        if report["missing_keys"]:
            raise refuse(f"loading what was saved misses {sorted(report['missing_keys'])[0]}")
        same = agree(loaded.eval()(input_ids=tokens).logits.float(), model(input_ids=tokens).logits.float())
    if not same:
        raise refuse("loading what was saved gives another model")


@contextmanager
def _failing_as(refuse: Callable[[str], InputError], what: str) -> Iterator[None]:
    """Turn whatever the model's code raises into one line. Warnings are left out: what matters is measured."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise refuse(f"{what} fails: {type(error).__name__}: {reason}") from error
