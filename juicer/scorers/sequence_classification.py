"""Any AutoModelForSequenceClassification with one label as a scorer, the format of most published reward models."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER

from juicer.data import hh
from juicer.data.demonstrations import Message
from juicer.models.folder import check_folder
from juicer.models.loading import check_finite, device_of, dtype_of, load_tokenizer, load_weights
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.scorers.batches import score_sequences
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings


class SequenceClassificationScorer:
    """Scores a dialogue by the one logit of a classifier.

    The dialogue is rendered in the tokenizer's chat template. Without one it is rendered in Anthropic-HH's format with
    the tokenizer's special tokens; `scorer.end_of_text` determines whether it ends in end-of-text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: ScorerSettings,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.positions = positions_of(model, tokenizer)

    @classmethod
    def load(cls, folder: Path, settings: ScorerSettings, compute: ComputeSettings) -> "SequenceClassificationScorer":
        """Load model and tokenizer of a folder.

        Raises:
            InputError: there is no tokenizer, no safetensors file or more than one label, or tensors are missing
                (transformers would draw them at random), unexpected or of another shape.
        """
        tokenizer = load_tokenizer(folder)
        check_folder(folder)
        labels = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).num_labels
        if labels != 1:
            what = f"a scorer must have one label, but this model has {labels}"
            raise InputError(what, where=str(folder / "config.json"), do="set scorer.model to a reward model")
        model, loaded = load_weights(AutoModelForSequenceClassification, folder, dtype=dtype_of(compute))
        for kind in ("unexpected_keys", "missing_keys", "mismatched_keys"):
            if loaded.get(kind):
                names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in loaded[kind])
                what = f"{len(names)} {kind.removesuffix('_keys')} tensors in the checkpoint, first {names[0]}"
                raise InputError(what, where=str(folder), do="check scorer.kind")
        check_finite(model, folder)
        return cls(model.to(device_of(compute)).eval(), tokenizer, settings)

    def render(self, prompt: list[Message], response: str) -> str:
        """The text that is scored."""
        answered = [{"role": str(turn["role"]), "content": turn["content"]} for turn in prompt]
        answered.append({"role": "assistant", "content": response})
        own = bool(self.tokenizer.chat_template)
        template = None if own else hh.CHAT_TEMPLATE
        text = str(self.tokenizer.apply_chat_template(answered, chat_template=template, tokenize=False))
        end = self.tokenizer.eos_token or ""
        # The model was trained with its own template, so end-of-text is never removed from that.
        bare = text if own else text.removesuffix(end)
        return bare + end if self.settings.end_of_text and not bare.endswith(end) else bare

    def score(self, rows: Sequence[tuple[list[Message], str]], context: WorkContext = LOCAL) -> list[float]:
        """One number per (prompt, response) row, in their order; see Scorer."""
        if not rows:
            return []
        texts = [self.render(prompt, response) for prompt, response in rows]
        special = not self.tokenizer.chat_template
        sequences: list[list[int]] = self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
        padding = self.tokenizer.pad_token_id
        return score_sequences(
            sequences,
            self._end_scores,
            batch_size=self.settings.batch_size,
            padding=padding if padding is not None else 0,
            positions=self.positions,
            first=(self.tokenizer.bos_token_id, self.tokenizer.cls_token_id),
            device=self.model.device,
            context=context,
        )

    def _end_scores(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Decoders read the last token that is not padding. If padding is also end-of-text and a dialogue ends in it,
        # that would be one token too early, so such batches are padded with a token that no dialogue ends in.
        ends = set(ids.gather(1, mask.sum(dim=1, keepdim=True) - 1).flatten().tolist())
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        if padding in ends:
            padding = next(token for token in range(len(ends) + 1) if token not in ends)
            ids = torch.where(mask.bool(), ids, padding)
        self.model.config.pad_token_id = padding
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits.squeeze(-1)


def positions_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Maximal length of a sequence, None for no limit."""
    limits = [int(tokenizer.model_max_length)]  # a huge number where the tokenizer has no limit
    limits.append(getattr(model.config, "max_position_embeddings", None) or limits[0])
    for name, module in model.named_modules():
        # RoBERTa and similar models start positions after the padding index, so the table has more rows than positions.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(int(module.num_embeddings) - int(module.padding_idx) - 1)
    shortest = min(limits)
    return None if shortest >= LARGE_INTEGER else shortest
