"""PKU-Alignment's LlamaForScore (beaver-7b-v3.0-reward): its checkpoint format and its prompt format.

Written for transformers' LlamaModel alone; the safe_rlhf package is not needed. The published weights are licensed
for non-commercial use. Format: shared by all beaver reward and cost models (arXiv 2310.12773).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerBase

from juicer.data.demonstrations import Message
from juicer.models.folder import check_folder, read_config_values, weight_files
from juicer.models.loading import check_finite, check_shapes, device_of, dtype_of, load_tokenizer
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.scorers.batches import score_sequences
from juicer.scorers.encoding import Encoder, Row
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings

NORMALISER = ("mean", "var", "count")
"""State of the running normaliser of rewards; `count`, the number of rewards seen, does not affect scores."""


class BeaverModel(torch.nn.Module):
    """A Llama trunk, a linear score head with a bias, and a normaliser that the configuration may enable.

    Attributes:
        trunk: the Llama model without a language head.
        score_head: hidden size -> 1.
        do_normalize: whether end scores are normalised with `mean` and `var`.
    """

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, trunk: LlamaModel, score_head: torch.nn.Linear, extra: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.score_head = score_head
        self.do_normalize = bool(extra.get("do_normalize", False))
        self.score_type = str(extra.get("score_type") or "reward")
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float32))
        self.register_buffer("var", torch.ones(1, dtype=torch.float32))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))

    @classmethod
    def create(cls, config: LlamaConfig) -> "BeaverModel":
        """A new model with random weights (from torch's global generator), in fp32."""
        return cls(LlamaModel(config), torch.nn.Linear(config.hidden_size, 1, bias=True), {})

    @classmethod
    def from_pretrained(
        cls, folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "BeaverModel":
        """Load a checkpoint: safetensors, in one file or in shards with an index.

        The bias of the score head and the normaliser may be absent (no bias; the configuration's `mean` and `var`).

        Raises:
            InputError: no safetensors, a tensor that the format does not have, a tensor of the trunk or head missing
                or of another shape, or a configuration that asks for something else than one score.
        """
        values = _configuration(folder)
        shapes = check_folder(folder)
        tensors = dict(_tensors(folder))
        # Without initialisation: every weight is replaced below, and initialising a 7B model takes minutes.
        try:
            with torch.device("meta"):
                config = LlamaConfig.from_dict(values)
                trunk = LlamaModel(config)
                head = torch.nn.Linear(config.hidden_size, 1, bias=True)
        except Exception as error:  # whatever a configuration makes the model's own code raise
            what = f"transformers cannot build such a Llama: {str(error).strip().splitlines()[:1]}"
            raise InputError(what, where=str(folder / "config.json")) from error
        trunk.rotary_emb = type(trunk.rotary_emb)(config)
        check_shapes({f"model.{name}": tuple(each.shape) for name, each in trunk.state_dict().items()}, shapes, folder)
        model = cls(trunk, head, values)
        model._take(tensors, values, dtype, str(folder))
        check_finite(model, folder)
        return model.to(device).eval()

    def _take(self, tensors: dict[str, torch.Tensor], values: dict[str, Any], dtype: torch.dtype, where: str) -> None:
        trunk = {name: tensors.pop(f"model.{name}") for name in self.trunk.state_dict() if f"model.{name}" in tensors}
        head = {
            name: tensors.pop(f"score_head.{name}") for name in ("weight", "bias") if f"score_head.{name}" in tensors
        }
        state = {name: tensors.pop(f"normalizer.{name}") for name in NORMALISER if f"normalizer.{name}" in tensors}
        if tensors:
            names = sorted(tensors)
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            do = "this is not a LlamaForScore checkpoint; check scorer.kind"
            raise InputError(f"{len(names)} unexpected tensors in the checkpoint: {shown}", where=where, do=do)
        missing = [f"model.{name}" for name in self.trunk.state_dict() if name not in trunk]
        missing += [] if "weight" in head else ["score_head.weight"]
        if missing:
            raise InputError(f"{len(missing)} tensors are missing from the checkpoint, first {missing[0]}", where=where)
        head.setdefault("bias", torch.zeros(1))
        for module, weights in ((self.trunk, trunk), (self.score_head, head)):
            cast = {name: weight.to(dtype) for name, weight in weights.items()}
            try:
                module.load_state_dict(cast, assign=True)
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise InputError(f"the shape of a tensor contradicts config.json: {reason}", where=where) from error
        for name in ("mean", "var"):
            value = state.get(name, values.get(name))
            if value is not None:
                getattr(self, name).copy_(torch.as_tensor(value, dtype=torch.float32).reshape(1))
            elif self.do_normalize:
                raise InputError(f"config.json sets do_normalize, but there is no normaliser {name}", where=where)
        if "count" in state:
            self.count.copy_(state["count"].reshape(-1)[:1])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """End scores.

        Args:
            input_ids: (batch, length) token ids, padded on either side.
            attention_mask: (batch, length), 1 on real tokens.

        Returns:
            (batch,) fp32: score_head at the last position where the mask is 1, normalised if do_normalize is set.
        """
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = (attention_mask * torch.arange(attention_mask.shape[1], device=attention_mask.device)).argmax(dim=1)
        end = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        scores: torch.Tensor = self.score_head(end).squeeze(-1).float()
        if self.do_normalize:
            # A reward is centred and scaled; a cost keeps its sign, so it is only scaled.
            shift = self.mean if self.score_type == "reward" else torch.zeros_like(self.mean)
            scores = (scores - shift) / self.var.sqrt()
        return scores

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors in beaver's format; the caller saves the tokenizer beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        dtype = str(self.score_head.weight.dtype).removeprefix("torch.")
        values = {
            **self.trunk.config.to_diff_dict(),
            "architectures": ["LlamaForScore"],
            "model_type": "llama",
            "dtype": dtype,
            "bias": False,
            "score_bias": True,
            "score_dim": 1,
            "score_type": self.score_type,
            "do_normalize": self.do_normalize,
            "normalizer_type": None,
            "momentum": None,
            "mean": self.mean.tolist(),
            "var": self.var.tolist(),
        }
        values.pop("_name_or_path", None)
        text = json.dumps(values, indent=2, sort_keys=True, allow_nan=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        tensors = {f"model.{name}": weight for name, weight in self.trunk.state_dict().items()}
        tensors |= {f"score_head.{name}": weight for name, weight in self.score_head.state_dict().items()}
        tensors |= {f"normalizer.{name}": getattr(self, name) for name in NORMALISER}
        contiguous = {name: weight.detach().cpu().contiguous() for name, weight in tensors.items()}
        save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    values = read_config_values(folder)
    if values.get("model_type", "llama") != "llama":
        do = "check scorer.kind"
        raise InputError(f"model_type is {values['model_type']!r}; beaver's format is a llama", where=str(path), do=do)
    if values.get("score_dim", 1) != 1:
        raise InputError(f"score_dim is {values['score_dim']}; only one score per response is used", where=str(path))
    if (values.get("score_type") or "reward") not in ("reward", "cost"):
        raise InputError(f"score_type {values['score_type']!r} is neither reward nor cost", where=str(path))
    return values


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  not a mapping
                    yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise InputError(f"the safetensors file is damaged: {error}", where=str(path)) from error


def dialogue(prompt: list[Message], response: str, *, end_of_text: str, append_end_of_text: bool) -> str:
    """A dialogue in the format that beaver was trained on.

    `BEGINNING OF CONVERSATION: USER: {x} ASSISTANT:{y}`, no space after `ASSISTANT:`; every earlier assistant turn
    is followed by end-of-text. A system turn, which the format lacks, is put before the next user turn.

    Args:
        prompt: the dialogue up to the response.
        response: the response to score.
        end_of_text: the tokenizer's end-of-text token.
        append_end_of_text: whether the response is followed by it too (the model card does not).
    """
    text, system = "BEGINNING OF CONVERSATION: ", ""
    for message in prompt:
        if message["role"] == "system":
            system += message["content"] + "\n\n"
        elif message["role"] == "user":
            text += f"USER: {system}{message['content']} "
            system = ""
        else:
            text += f"ASSISTANT:{message['content']}{end_of_text}"
    return f"{text}ASSISTANT:{response}{end_of_text if append_end_of_text else ''}"


class BeaverScorer:
    """Scores responses with a model in beaver's format."""

    def __init__(
        self,
        model: BeaverModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: ScorerSettings,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        # Like the model card: with the tokenizer's special tokens, for Llama a begin-of-text token.
        self.encoder = Encoder(tokenizer, self._texts, add_special_tokens=True)

    def _texts(self, prompt: list[Message], response: str) -> tuple[str]:
        end = str(self.tokenizer.eos_token)
        return (dialogue(prompt, response, end_of_text=end, append_end_of_text=self.settings.end_of_text),)

    @classmethod
    def load(cls, folder: Path, settings: ScorerSettings, compute: ComputeSettings) -> "BeaverScorer":
        """Load model and tokenizer of a folder; see BeaverModel.from_pretrained for errors."""
        tokenizer = load_tokenizer(folder)
        if tokenizer.eos_token is None:
            raise InputError("the tokenizer has no end-of-text token", where=str(folder))
        model = BeaverModel.from_pretrained(folder, dtype=dtype_of(compute), device=device_of(compute))
        known = model.trunk.config.vocab_size
        if len(tokenizer) > known:
            raise InputError(f"the tokenizer has {len(tokenizer)} tokens, but the model has {known}", where=str(folder))
        return cls(model, tokenizer, settings)

    def refusals(self, rows: Sequence[Row]) -> list[str | None]:
        """Nothing is refused: the format takes any turns."""
        return [None] * len(rows)

    def score(self, rows: Sequence[Row], context: WorkContext = LOCAL) -> list[float]:
        """One number per (prompt, response) row, in their order; see Scorer.

        Raises:
            InputError: a score is not finite.
        """
        config = self.model.trunk.config
        return score_sequences(
            self.encoder.encode(rows),
            self.model,
            batch_size=self.settings.batch_size,
            padding=config.pad_token_id if config.pad_token_id is not None else 0,
            positions=config.max_position_embeddings,
            first=(self.tokenizer.bos_token_id,),
            device=self.model.score_head.weight.device,
            context=context,
        )
