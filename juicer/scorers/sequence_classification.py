"""Any AutoModelForSequenceClassification with one label as a scorer, the format of most published reward models."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.tokenization_utils_base import LARGE_INTEGER

from juicer.data import hh
from juicer.data.demonstrations import Message
from juicer.data.rendering import render
from juicer.models.folder import check_folder
from juicer.models.loading import check_finite, device_of, dtype_of, load_tokenizer, load_weights
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.scorers.batches import score_sequences
from juicer.scorers.encoding import Encoder, Row, Texts
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import ScorerSettings, TemplateSettings

FIXED = TemplateSettings(name="model")


class SequenceClassificationScorer:
    """Scores a dialogue by the one logit of a classifier.

    The dialogue is rendered in the tokenizer's chat template. Without one, an encoder gets prompt and response as a
    pair of texts, unless `scorer.pairs` says otherwise, and a decoder gets Anthropic-HH's format with the tokenizer's
    special tokens; `scorer.end_of_text` determines whether that ends in end-of-text.
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
        own = bool(tokenizer.chat_template)
        self.paired = not own and is_encoder(model.config) if settings.pairs == "auto" else settings.pairs
        self.encoder = Encoder(tokenizer, self._texts, add_special_tokens=self.paired or not own, paired=self.paired)
        self._segments = self.paired and getattr(model.config, "type_vocab_size", 0) > 1 and self._has_segments()

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
        answered: list[Message] = [*prompt, {"role": "assistant", "content": response}]
        own, end = bool(self.tokenizer.chat_template), self.tokenizer.eos_token or ""
        # A template that asks for today's date gets a fixed one, so that scores do not depend on the day.
        text = render(self.tokenizer, answered, FIXED, asks=False) if own else hh.render(answered)
        return text + end if self.settings.end_of_text and not text.endswith(end) else text

    def _texts(self, prompt: list[Message], response: str) -> Texts:
        return (question_of(prompt), response) if self.paired else (self.render(prompt, response),)

    def refusals(self, rows: Sequence[Row]) -> list[str | None]:
        """Why the chat template refuses a row; None for the rows that it takes."""
        return self.encoder.refusals(rows)

    def score(self, rows: Sequence[Row], context: WorkContext = LOCAL) -> list[float]:
        """One number per (prompt, response) row, in their order; see Scorer."""
        if not rows:
            return []
        sequences = self.encoder.encode(rows)
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
        segments = {"token_type_ids": self._segments_of(ids, mask)} if self._segments else {}
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, **segments).logits
        return logits.squeeze(-1)

    def _segments_of(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """1 on the response and the separator behind it, and 0 elsewhere. (batch, length) both."""
        # Counted from the end, because a dialogue that is too long has lost its beginning.
        separators = ((ids == self.tokenizer.sep_token_id) & mask.bool()).long()
        behind = separators.flip(1).cumsum(1).flip(1)
        segments = ((behind == 1) & mask.bool()).long()
        segments[:, 0] = 0
        return segments

    def _has_segments(self) -> bool:
        """Whether the tokenizer tells the two texts of a pair apart, as BERT's does and RoBERTa's does not.

        Raises:
            InputError: it does so in another way than BERT's.
        """
        asked = self.tokenizer(["a"], ["b"], return_tensors="pt", return_token_type_ids=True)
        if not asked["token_type_ids"].any():
            return False
        if self.tokenizer.sep_token_id is None or not torch.equal(
            self._segments_of(asked["input_ids"], asked["attention_mask"]), asked["token_type_ids"]
        ):
            what = "the tokenizer marks the two texts of a pair in an unknown way"
            raise InputError(what, where=str(self.tokenizer.name_or_path), do="set scorer.pairs to false")
        return True


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model reads a text in both directions, as BERT does; it was trained on pairs of texts then."""
    bidirectional = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bidirectional and not getattr(config, "is_decoder", False) and not config.is_encoder_decoder


def question_of(prompt: Sequence[Message]) -> str:
    """The first text of a pair: the user's turn as it is, or several turns in Anthropic-HH's format."""
    return prompt[0]["content"] if len(prompt) == 1 else hh.render(list(prompt)).strip()


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
