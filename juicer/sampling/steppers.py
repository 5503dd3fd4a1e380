"""The next token's logits for a batch of prompts, one step after another: with our cache, the model's own, or none.

Our cache fills preallocated buffers, which is fastest, but it holds keys and values only. Models with convolutions or a
recurrent state have a cache of their own. What a model's cache cannot do, such as prompts of different lengths side by
side, is found by comparing every way with a plain forward pass on a shrunken model, once per model.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from juicer.models.forward import (
    agree,
    example_tokens,
    features,
    full_precision,
    last_features,
    logits_of,
    parameters_of,
    shrunken_model,
)
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFILL_BATCH_SIZE = 32
"""Prompts per forward pass: of similar length, so with little padding, and in no more memory than training needs."""
REFILL_FROM = 10_000_000
"""Parameters from which waiting prompts take the rows of ended responses. Reading the weights of a smaller model costs
so little that a step of few rows is hardly slower per row than one of many."""
SPARE = 64
"""Decoding steps between two moves of a cache whose rows are filled again."""
CacheKind = Literal["buffered", "own", "none"]
_ATTRIBUTE = "_juicer_cache"
_REFILL = "_juicer_refill"


class Stepper(Protocol):
    """Computes what predicts the next token of each row."""

    def first(self) -> Tensor:
        """(rows, width or vocabulary) the features that predict the first token after each prompt."""

    def next(self, chosen: Tensor) -> Tensor:
        """The features after `chosen` (rows,), the next token of each row."""

    def keep(self, rows: Tensor) -> None:
        """Continue with only the rows of these ascending indices, which are on the CPU."""


def stepper_for(policy: "PreTrainedModel", padding: int, prompts: Sequence[list[int]], steps: int) -> Stepper:
    """The fastest exact way to continue these prompts by `steps` tokens.

    Args:
        padding: any token id.
    """
    return STEPPERS[cache_of(policy)](policy, padding, prompts, steps)


def cache_of(policy: "PreTrainedModel") -> CacheKind:
    """The cache that the model is sampled with; measured the first time, then kept with the model.

    Raises:
        InputError: with no cache, and without one, does sampling agree with a plain forward pass.
    """
    known: CacheKind | None = getattr(policy, _ATTRIBUTE, None)
    if known is None:
        with full_precision():
            known = measured_cache(shrunken_model(policy.config, type(policy)))
        if known is None:
            what = f"no way of sampling from {type(policy).__name__} agrees with its own logits"
            raise InputError(what, where=str(policy.config.name_or_path), do="use another model")
        setattr(policy, _ATTRIBUTE, known)
    return known


@torch.no_grad()
def measured_cache(model: "PreTrainedModel") -> CacheKind | None:
    """The fastest cache with which a (shrunken) model says the same as without one; None if there is none.

    It is tried on prompts of different lengths, longer than a sliding window, one of which ends before the others.
    """
    lengths, steps = (11, 4, 7), 9
    rows = example_tokens(3, max(lengths) + steps)
    expected = [
        model(input_ids=row[None, : length + steps]).logits[0, length - 1 :].float()
        for row, length in zip(rows, lengths, strict=True)
    ]
    prompts = [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
    kinds: tuple[CacheKind, ...] = ("buffered", "own", "none")
    for kind in kinds:
        try:
            stepper = STEPPERS[kind](model, 0, prompts, steps, prefill=2)
            live, given = torch.arange(3), stepper.first()
            for step in range(steps):
                wanted = torch.stack([expected[row][step] for row in live])
                if not agree(logits_of(model, given), wanted):
                    break
                if step == steps // 2:
                    live = live[torch.tensor([0, 2])]
                    stepper.keep(torch.tensor([0, 2]))
                chosen = torch.stack([rows[row][lengths[row] + step] for row in live])
                given = stepper.next(chosen)
            else:
                return kind
        except Exception:  # noqa: S112  the architecture has no such cache
            continue
    return None


def can_refill(policy: "PreTrainedModel") -> bool:
    """Whether rows of ended responses are filled again: for large models whose masks and positions allow it.

    That is measured on a shrunken model the first time, then kept with the model.
    """
    if policy.num_parameters() < REFILL_FROM or cache_of(policy) != "buffered":
        return False
    known: bool | None = getattr(policy, _REFILL, None)
    if known is None:
        with full_precision():
            known = measured_refill(shrunken_model(policy.config, type(policy)))
        setattr(policy, _REFILL, known)
    return known


@torch.no_grad()
def measured_refill(model: "PreTrainedModel") -> bool:
    """Whether a (shrunken) model says of a prompt that is filled into a used row what it says without a cache."""
    lengths, steps, change = (11, 4, 7), 9, 3
    rows = example_tokens(3, max(lengths) + steps)
    try:
        expected = [
            model(input_ids=row[None, : length + steps]).logits[0, length - 1 :].float()
            for row, length in zip(rows, lengths, strict=True)
        ]
        prompts = [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
        stepper = RefilledStepper(model, 0, prompts[:2], steps, max(lengths))
        live, taken, given = [0, 1], [0, 0], stepper.first()
        for step in range(steps):
            at = list(zip(live, taken, strict=True))
            if not agree(logits_of(model, given), torch.stack([expected[row][place] for row, place in at])):
                return False
            given = stepper.next(torch.stack([rows[row][lengths[row] + place] for row, place in at]))
            taken = [count + 1 for count in taken]
            if step == change:
                given[1:] = stepper.admit(torch.tensor([1]), [prompts[2]])
                live, taken = [0, 2], [taken[0], 0]
    except Exception:
        return False
    return True


class _Rows:
    """Prompts padded on the left, and what follows them."""

    def __init__(self, policy: "PreTrainedModel", padding: int, prompts: Sequence[list[int]], steps: int) -> None:
        self.policy, self.padding, self.prompts = policy, padding, prompts
        self.length, self.steps, self.step = max(map(len, prompts)), steps, 0
        attention = torch.zeros((len(prompts), self.length + steps), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            attention[row, self.length - len(prompt) :] = 1
        self.attention = attention.to(policy.device)
        self.positions = self.attention[:, : self.length].sum(1)

    def padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, attention and positions of some prompts, padded on the left to the longest of them."""
        rows = [torch.tensor(prompt, dtype=torch.int64) for prompt in prompts]
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.padding, padding_side="left")
        attention = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        return tokens.to(self.policy.device), attention.to(self.policy.device), positions.to(self.policy.device)

    def keep(self, rows: Tensor) -> None:
        rows = rows.to(self.attention.device)
        self.attention, self.positions = self.attention[rows], self.positions[rows]


class BufferedStepper(_Rows):
    """With `BufferedCache`; prompts are filled in a few at a time, each once for neighbours that have it."""

    def __init__(
        self,
        policy: "PreTrainedModel",
        padding: int,
        prompts: Sequence[list[int]],
        steps: int,
        prefill: int | None = None,
        longest: int = 0,
        spare: int = 0,
    ) -> None:
        from juicer.sampling.cache import BufferedCache

        super().__init__(policy, padding, prompts, steps)
        self.prefill = prefill or PREFILL_BATCH_SIZE
        self.length = max(self.length, longest)
        self.cache = BufferedCache(policy.config, len(prompts), self.length, self.length + steps + spare)

    def first(self) -> Tensor:
        return self.read(self.prompts)

    def read(self, prompts: Sequence[list[int]], places: Tensor | None = None) -> Tensor:
        """Fill prompts into the rows at `places`, by default all rows; returns what predicts their next tokens."""
        given = []
        # The responses to one prompt have the same list.
        groups = [list(group) for _, group in groupby(range(len(prompts)), lambda row: id(prompts[row]))]
        for start in range(0, len(groups), self.prefill):
            some = groups[start : start + self.prefill]
            tokens, attention, positions = self.padded([prompts[rows[0]] for rows in some])
            counts = torch.tensor([len(rows) for rows in some], device=tokens.device)
            rows = slice(some[0][0], some[-1][-1] + 1)
            self.cache.fill(rows if places is None else places[rows], counts)
            last = last_features(
                self.policy,
                tokens,
                attention,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
            )
            given.append(last.repeat_interleave(counts, 0))
        self.cache.fill(None)
        return torch.cat(given)

    def next(self, chosen: Tensor) -> Tensor:
        attention = self.attention[:, : self.length + self.step + 1]
        given = self.continued(chosen, attention, self.positions + self.step)
        self.step += 1
        return given

    def continued(self, chosen: Tensor, attention: Tensor, positions: Tensor) -> Tensor:
        """The features after `chosen` (rows,), which stand at `positions` (rows,)."""
        return last_features(
            self.policy,
            chosen[:, None],
            attention,
            position_ids=positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.cache.batch_select_indices(rows.to(self.attention.device))


class RefilledStepper(BufferedStepper):
    """`BufferedStepper` that fills waiting prompts into the rows of responses that have ended.

    All rows still end at the same position of the cache, which moves on; what lies before the longest row is not shown
    to the model, and overwritten when the cache is full.
    """

    def __init__(
        self,
        policy: "PreTrainedModel",
        padding: int,
        prompts: Sequence[list[int]],
        steps: int,
        longest: int,
        prefill: int | None = None,
    ) -> None:
        """
        Args:
            longest: tokens of the longest prompt, of those that wait too.
        """
        super().__init__(policy, padding, prompts, steps, prefill, longest, SPARE)
        self.held = self.positions
        """(rows,) tokens of each row that the cache holds."""
        self.known = torch.tensor([len(prompt) for prompt in prompts])
        """The same on the CPU, where it is asked for at every step without waiting for the device."""
        self.most = self.length + steps

    def next(self, chosen: Tensor) -> Tensor:
        before = int(self.known.max())
        self.cache.show(before)
        places = torch.arange(before + 1, device=chosen.device)
        given = self.continued(chosen, (places >= before - self.held[:, None]).long(), self.held)
        # A row that has ended goes on until a prompt takes it, which may be after more steps than a response has.
        self.held, self.known = ((each + 1).clamp(max=self.most - 1) for each in (self.held, self.known))
        return given

    def admit(self, rows: Tensor, prompts: Sequence[list[int]]) -> Tensor:
        """Continue the rows of these indices with other prompts; returns what predicts their first tokens.

        Args:
            rows: on the CPU.
        """
        places = rows.to(self.held.device)
        given = self.read(prompts, places)
        self.known[rows] = torch.tensor([len(prompt) for prompt in prompts])
        self.held[places] = self.known[rows].to(self.held.device)
        return given

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.held, self.known = self.held[rows.to(self.held.device)], self.known[rows]


class OwnStepper(_Rows):
    """With the cache that transformers makes for the model: convolutions and recurrent states too."""

    def __init__(
        self,
        policy: "PreTrainedModel",
        padding: int,
        prompts: Sequence[list[int]],
        steps: int,
        prefill: int | None = None,
    ) -> None:
        from transformers import DynamicCache

        super().__init__(policy, padding, prompts, steps)
        self.name = "cache_params" if "cache_params" in parameters_of(policy) else "past_key_values"
        self.cache = DynamicCache(config=policy.config)

    def first(self) -> Tensor:
        tokens, attention, positions = self.padded(self.prompts)
        return self._features(tokens, attention, positions)

    def next(self, chosen: Tensor) -> Tensor:
        attention = self.attention[:, : self.length + self.step + 1]
        given = self._features(chosen[:, None], attention, self.positions[:, None] + self.step)
        self.step += 1
        return given

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        kept = rows.to(self.attention.device)
        self.cache.reorder_cache(kept)  # type: ignore[arg-type]  # a LongTensor is a Tensor of int64

    def _features(self, tokens: Tensor, attention: Tensor, positions: Tensor) -> Tensor:
        cache = {self.name: self.cache}
        return last_features(self.policy, tokens, attention, position_ids=positions, use_cache=True, **cache)


class UncachedStepper:
    """Without a cache: every step computes the whole rows again, which is slow and always what the model says."""

    def __init__(
        self,
        policy: "PreTrainedModel",
        padding: int,
        prompts: Sequence[list[int]],
        steps: int,
        prefill: int | None = None,
    ) -> None:
        self.policy = policy
        length = max(map(len, prompts))
        tokens = torch.full((len(prompts), length + steps), padding, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        self.tokens = tokens.to(policy.device)
        self.ends = torch.tensor([len(prompt) for prompt in prompts], device=policy.device)

    def first(self) -> Tensor:
        longest = int(self.ends.max())
        places = torch.arange(longest, device=self.tokens.device)
        attention = (places < self.ends[:, None]).long()
        given = features(self.policy, self.tokens[:, :longest], attention, use_cache=False)
        return given[torch.arange(len(given), device=given.device), self.ends - 1]

    def next(self, chosen: Tensor) -> Tensor:
        self.tokens[torch.arange(len(chosen), device=chosen.device), self.ends] = chosen
        self.ends = self.ends + 1
        return self.first()

    def keep(self, rows: Tensor) -> None:
        rows = rows.to(self.tokens.device)
        self.tokens, self.ends = self.tokens[rows], self.ends[rows]


STEPPERS: dict[CacheKind, Callable[..., Stepper]] = {
    "buffered": BufferedStepper,
    "own": OwnStepper,
    "none": UncachedStepper,
}
