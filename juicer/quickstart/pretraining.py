"""The tiny models of the quickstart, trained from scratch: a GPT-NeoX like pythia and a LlamaForScore like beaver.

They are saved in the formats of the real models, so that every later stage loads them with the same code.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from juicer.data import hh
from juicer.data.demonstrations import Message
from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.models.loading import device_of
from juicer.models.log_probability import Batch
from juicer.runtime.context import LOCAL, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.seeding import derive
from juicer.scorers.beaver import BeaverModel, dialogue
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.world import TinyPolicySettings, TinyScorerSettings

if TYPE_CHECKING:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, PreTrainedTokenizerFast

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern by which GPT-2 and GPT-NeoX split text into words before byte-pair encoding."""
BEAVER_TURNS = ("BEGINNING OF CONVERSATION:", " USER:", " ASSISTANT:")
CHUNK = 32
"""Batches per chunk. A chunk is sorted by length and cut into batches: little padding, and still well shuffled."""
WARMUP = 0.05
"""Share of the steps over which the learning rate rises to its peak."""

MOMENTS = 512
"""Number of scores from which the checkpoint's normaliser is computed."""

Answered = tuple[list[Message], str]


class Preference(NamedTuple):
    """Two responses to one prompt."""

    prompt: list[Message]
    better: str
    worse: str


def train_tokenizer(texts: Sequence[str], vocabulary: int, turns: Sequence[str]) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer, which can encode any text.

    Args:
        texts: the training texts.
        vocabulary: largest number of tokens.
        turns: marks of a turn, each of which can become one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = "|".join([*map(re.escape, turns), WORDS])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END_OF_TEXT, PADDING],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )


def policy_config(
    settings: TinyPolicySettings, vocabulary: int, special: Mapping[str, Any] | None = None
) -> "GPTNeoXConfig":
    """The tiny policy's configuration.

    Args:
        vocabulary: number of tokens of its tokenizer, which may be smaller than in the settings.
        special: ids of special tokens, by their names in a configuration.
    """
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=4 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        use_parallel_residual=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        initializer_range=settings.hidden_size**-0.5 / 2,
        classifier_dropout=0.0,
        **(special or {}),
    )


def scorer_config(
    settings: TinyScorerSettings, policy: TinyPolicySettings, vocabulary: int, special: Mapping[str, Any] | None = None
) -> "LlamaConfig":
    """The tiny scorer's configuration; arguments as for `policy_config`."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=4 * settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=2 * policy.context,
        **(special or {}),
    )


def _special(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    """The ids of a tokenizer's special tokens, by their names in a configuration."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def train_policy(
    dialogues: Sequence[Answered],
    settings: TinyPolicySettings,
    template: TemplateSettings,
    compute: ComputeSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> tuple["GPTNeoXForCausalLM", Template]:
    """Train tokenizer and GPT-NeoX from scratch, as a plain language model on whole dialogues.

    Args:
        dialogues: (prompt, response); of a dialogue longer than the context, the beginning is cut off.
        template: the template's settings; the chat template is always hh, because a new model has no other.
        context: its progress counts steps, its observers receive the loss.

    Returns:
        The model and its template.

    Raises:
        InputError: the loss is not finite; gives the step.
    """
    from transformers import GPTNeoXForCausalLM

    texts = [hh.render([*prompt, {"role": "assistant", "content": response}]) for prompt, response in dialogues]
    tokenizer = train_tokenizer(texts, settings.vocabulary, hh.TURNS)
    written = Template(tokenizer, template.model_copy(update={"name": "hh"}))
    sequences = [
        (written.prompt(prompt) + written.response(prompt, response))[-settings.context :]
        for prompt, response in dialogues
    ]

    torch.manual_seed(derive(seed, "pretrain", "policy", "weights"))
    model = GPTNeoXForCausalLM(policy_config(settings, len(tokenizer), _special(tokenizer))).train()
    torch.nn.Module.to(model, device_of(compute))  # transformers types its own `to` wrongly

    # The rows of a batch have similar lengths, so a mean per batch would weight the tokens of short dialogues more.
    tokens_per_batch = settings.batch_size * sum(map(len, sequences)) / len(sequences)

    def loss_of(rows: list[int]) -> Tensor:
        batch = Batch.of([Dialogue([], sequences[row]) for row in rows], written.padding, model.device)
        # Padding is on the right and the model is causal, so real tokens never attend to it and need no mask.
        hidden = model.base_model(input_ids=batch.tokens[:, :-1], use_cache=False).last_hidden_state
        real = batch.response[:, 1:]
        logits = model.get_output_embeddings()(hidden[real])
        return cross_entropy(logits, batch.tokens[:, 1:][real], reduction="sum") / tokens_per_batch

    order = derive(seed, "pretrain", "policy", "order")
    batches = batches_by_length(list(map(len, sequences)), settings.batch_size, settings.epochs, order)
    train_loop(model, batches, loss_of, settings.learning_rate, "pretrain policy", context)
    return model.eval(), written


def train_scorer(
    preferences: Sequence[Preference],
    settings: TinyScorerSettings,
    policy: TinyPolicySettings,
    compute: ComputeSettings,
    seed: int,
    context: WorkContext = LOCAL,
) -> tuple[BeaverModel, "PreTrainedTokenizerFast"]:
    """Train tokenizer and LlamaForScore on preferences, by the Bradley-Terry loss -log sigmoid(r(better) - r(worse)).

    Args:
        preferences: the training pairs; the labels of a share `label_noise` of them are flipped.
        policy: the scorer has the vocabulary size of the tiny policy and twice its context, because its tokenizer is
            another one. It is trained on the last `policy.context` tokens of a dialogue.
        context: its progress counts steps, its observers receive the loss.

    Returns:
        The model and its tokenizer.

    Raises:
        InputError: the loss is not finite; gives the step.
    """

    def written(prompt: list[Message], response: str) -> str:
        return dialogue(prompt, response, end_of_text=END_OF_TEXT, append_end_of_text=False)

    texts = [written(row.prompt, response) for row in preferences for response in (row.better, row.worse)]
    tokenizer = train_tokenizer(texts, policy.vocabulary, BEAVER_TURNS)
    sequences = [Dialogue([], tokens[-policy.context :]) for tokens in tokenizer(texts)["input_ids"]]
    generator = torch.Generator().manual_seed(derive(seed, "pretrain", "scorer", "labels"))
    sign = 1.0 - 2.0 * (torch.rand(len(preferences), generator=generator) < settings.label_noise).float()

    torch.manual_seed(derive(seed, "pretrain", "scorer", "weights"))
    config = scorer_config(settings, policy, len(tokenizer), _special(tokenizer))
    model = BeaverModel.create(config).to(device_of(compute)).train()
    device = model.score_head.weight.device

    def loss_of(rows: list[int]) -> Tensor:
        both = [sequences[2 * row] for row in rows] + [sequences[2 * row + 1] for row in rows]
        batch = Batch.of(both, tokenizer.pad_token_id, device)
        better, worse = model(batch.tokens, batch.attention).chunk(2)
        return -logsigmoid((better - worse) * sign[rows].to(device)).mean()

    lengths = [max(len(sequences[2 * row]), len(sequences[2 * row + 1])) for row in range(len(preferences))]
    order = derive(seed, "pretrain", "scorer", "order")
    batches = batches_by_length(lengths, settings.batch_size, settings.epochs, order)
    train_loop(model, batches, loss_of, settings.learning_rate, "pretrain scorer", context)
    model.eval()
    _note_moments(model, sequences[:MOMENTS], tokenizer.pad_token_id)
    return model, tokenizer


@torch.no_grad()
def _note_moments(model: BeaverModel, sequences: Sequence[Dialogue], padding: int) -> None:
    """Fill the normaliser, which is present but switched off, as in beaver's checkpoint."""
    batch = Batch.of(sequences, padding, model.score_head.weight.device)
    scores = model(batch.tokens, batch.attention)
    model.mean.fill_(scores.mean())
    model.var.fill_(scores.var())
    model.count.fill_(len(scores))


def save_scorer(model: BeaverModel, tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Save the tiny scorer in beaver's format."""
    model.save(folder)
    tokenizer.save_pretrained(folder)


def train_loop(
    model: torch.nn.Module,
    batches: Sequence[list[int]],
    loss_of: Callable[[list[int]], Tensor],
    learning_rate: float,
    name: str,
    context: WorkContext,
) -> None:
    """Train a fresh model: Muon on the matrices of its blocks, AdamW on everything else.

    From scratch and within a few hundred steps, AdamW alone leaves a third of the responses garbled; Muon does not.

    Args:
        batches: row numbers of each step.
        loss_of: returns the loss of the rows with the given numbers.
        learning_rate: the peak, from which the learning rate falls to zero linearly after the warm-up.
        name: the training's name in errors.

    Raises:
        InputError: the loss is not finite; gives the step.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for key, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".layers." in key else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    warmup = math.ceil(WARMUP * len(batches))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, (len(batches) - step) / max(len(batches) - warmup, 1))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, factor) for optimiser in optimisers]
    for step, rows in enumerate(batches, 1):
        loss = loss_of(rows)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss is {value} at step {step} of {len(batches)}",
                where=name,
                do="lower its learning_rate; nothing was saved",
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
        context.emit_metrics(step, loss=value)
        context.progress(1)


def steps_of(rows: int, batch_size: int, epochs: float) -> int:
    """Number of batches that `batches_by_length` returns."""
    return math.ceil(round(epochs * rows) / batch_size)


def batches_by_length(lengths: Sequence[int], batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """Seeded batches of row numbers, with rows of similar length in a batch; `epochs` may be a fraction.

    Raises:
        InputError: there are no rows.
    """
    if not lengths:
        raise InputError("there are no dialogues to train on", do="check pretrain.corpus")
    return list(_batches_by_length(lengths, batch_size, round(epochs * len(lengths)), seed))


def _batches_by_length(lengths: Sequence[int], batch_size: int, wanted: int, seed: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    stream: list[int] = []
    while len(stream) < wanted:
        stream += torch.randperm(len(lengths), generator=generator).tolist()
    for start in range(0, wanted, CHUNK * batch_size):
        chunk = sorted(stream[start : min(start + CHUNK * batch_size, wanted)], key=lambda row: lengths[row])
        batches = [chunk[first : first + batch_size] for first in range(0, len(chunk), batch_size)]
        for number in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[number]
