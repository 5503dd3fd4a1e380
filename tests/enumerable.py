"""A world small enough to sum over: three tokens, responses of at most three of them, so that every distribution,
partition function and gradient of the paper is a finite sum in float64. None of the library's mathematics is used here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from juicer.data.template import Template
from juicer.settings.data import TemplateSettings

END_OF_TEXT = 0
TOKENS = (1, 2)
LETTERS = ".ab"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class World:
    """Prompts, all equally likely, and every response to them.

    Attributes:
        prompts: tokens, the first of which begins the text: without it "a" and "aa" would have the same hidden states.
        longest: a response ends with end-of-text, or is cut at this many tokens.
    """

    prompts: tuple[tuple[int, ...], ...] = ((0, 1), (0, 2, 1))
    longest: int = 3

    @property
    def responses(self) -> list[list[int]]:
        """Every response, 2 ** (longest + 1) - 1 of them: those that end, by length, then those that are cut."""
        ended = [[*start, END_OF_TEXT] for count in range(self.longest) for start in product(TOKENS, repeat=count)]
        return ended + [list(cut) for cut in product(TOKENS, repeat=self.longest)]

    def draw_distribution(self, seed: int, spread: float = 1.0) -> Tensor:
        """Any distribution of responses, (prompts, responses): normal logits with `spread` as deviation."""
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(len(self.prompts), len(self.responses), generator=generator, dtype=torch.float64)
        return (spread * logits).softmax(1)

    def log_policy(self, policy: PreTrainedModel) -> Tensor:
        """log pi(y|x) of every response, (prompts, responses), differentiable; nothing is padded."""

        def of(tokens: Tensor, response: Tensor) -> Tensor:
            logits = policy(input_ids=tokens).logits[:, -response.shape[1] - 1 : -1].log_softmax(-1)
            return logits.gather(2, response[:, :, None]).sum((1, 2))

        return self._of_every_response(of)

    def entropic_matching(self, policy: PreTrainedModel, temperature: float) -> Tensor:
        """sum_t sum_v q_t(v) [log pi(v) - log pi(y_t)] of every response, q = softmax(z / temperature) a constant."""

        def of(tokens: Tensor, response: Tensor) -> Tensor:
            logits = policy(input_ids=tokens).logits[:, -response.shape[1] - 1 : -1]
            q, log_pi = (logits / temperature).softmax(-1).detach(), logits.log_softmax(-1)
            taken = log_pi.gather(2, response[:, :, None])
            return (q * (log_pi - taken)).sum((1, 2))

        return self._of_every_response(of)

    def reward(self, model: PreTrainedModel) -> Tensor:
        """r(x, y) of every response, (prompts, responses), differentiable; nothing is padded."""

        def of(tokens: Tensor, response: Tensor) -> Tensor:
            return model.get_submodule("score")(model.base_model(input_ids=tokens).last_hidden_state[:, -1])[:, 0]

        return self._of_every_response(of)

    def _of_every_response(self, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`of` gets responses of one length, as (rows, prompt and response) and (rows, response) tokens."""
        rows = []
        for prompt in self.prompts:
            values: dict[tuple[int, ...], Tensor] = {}
            for _, group in groupby(sorted(self.responses, key=len), key=len):
                same = list(group)
                tokens = torch.tensor([[*prompt, *response] for response in same])
                values |= zip(map(tuple, same), of(tokens, torch.tensor(same)), strict=True)
            rows.append(torch.stack([values[tuple(response)] for response in self.responses]))
        return torch.stack(rows)

    def make_policy(self, seed: int) -> GPTNeoXForCausalLM:
        """A random policy."""
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(_config()).double().eval()

    def make_reward(self, seed: int) -> GPTNeoXForSequenceClassification:
        """A random reward model."""
        torch.manual_seed(seed)
        return GPTNeoXForSequenceClassification(_config()).double().eval()

    def realise(self, policy: PreTrainedModel, distribution: Tensor) -> None:
        """Solve for an output head with which `policy` is exactly `distribution`, (prompts, responses).

        A causal model can be any distribution: what follows a beginning depends on that beginning's hidden state,
        and there are more hidden dimensions than beginnings.
        """
        hidden, logits = [], []
        for prompt, row in zip(self.prompts, distribution, strict=True):
            beginnings = {tuple(response[:place]) for response in self.responses for place in range(len(response))}
            for beginning in sorted(beginnings):
                size = len(beginning)
                follow = torch.zeros(len(LETTERS), dtype=torch.float64)
                for response, probability in zip(self.responses, row, strict=True):
                    if len(response) > size and tuple(response[:size]) == beginning:
                        follow[response[size]] += probability
                logits.append(follow.log())
                tokens = torch.tensor([[*prompt, *beginning]])
                hidden.append(policy.base_model(input_ids=tokens).last_hidden_state[0, -1].detach())
        head = torch.linalg.lstsq(torch.stack(hidden), torch.stack(logits), driver="gelsd").solution
        with torch.no_grad():
            policy.get_output_embeddings().weight.copy_(head.T)

    def text(self, tokens: Sequence[int]) -> str:
        """The letters of some tokens."""
        return "".join(LETTERS[token] for token in tokens)

    def template(self) -> Template:
        """The template of this world: a letter is a token, and a message is its letters."""
        made = Tokenizer(WordLevel({letter: token for token, letter in enumerate(LETTERS)}, unk_token="."))
        made.pre_tokenizer = Split(Regex("."), "isolated")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=made, eos_token=".", pad_token=".", chat_template=CHAT_TEMPLATE
        )
        return Template(tokenizer, TemplateSettings(name="model", max_response_tokens=self.longest))


def _config() -> GPTNeoXConfig:
    made: Any = GPTNeoXConfig
    return made(
        vocab_size=len(LETTERS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        # One after the other: side by side, attention and MLP only add up, and span too few dimensions for `realise`.
        use_parallel_residual=False,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.15,
        eos_token_id=END_OF_TEXT,
        bos_token_id=END_OF_TEXT,
        pad_token_id=END_OF_TEXT,
        num_labels=1,
    )


def optimal_policy(log_reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """log pi_ref(y|x) + r(x, y) / beta - log Z(x): the closed form of the inner problem of (1), any shape (..., y)."""
    return (log_reference + reward / beta).log_softmax(-1)


def objective(log_policy: Tensor, log_reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The inner problem of (1): E_{x, y ~ pi}[r(x, y)] - beta KL(pi || pi_ref), all (prompts, responses)."""
    return (log_policy.exp() * (reward - beta * (log_policy - log_reference))).sum(1).mean()


def likelihood(log_policy: Tensor, demonstrations: Tensor) -> Tensor:
    """l of (1): E_{x, y ~ pi_E}[log pi(y|x)], both (prompts, responses); prompts are equally likely."""
    return (demonstrations * log_policy).sum(1).mean()


def flat_gradient(value: Tensor, model: PreTrainedModel) -> Tensor:
    """d value / d parameters, in one vector; a parameter that takes no part has zeros."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


@contextmanager
def recorded_steps(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The gradient with which each optimiser step inside this block is taken, one vector per step."""
    steps: list[Tensor] = []

    def keep(*_: object) -> None:
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for parameter in model.parameters()
        ]
        steps.append(torch.cat([gradient.flatten() for gradient in gradients]))

    handle = register_optimizer_step_pre_hook(keep)
    try:
        yield steps
    finally:
        handle.remove()


def expectation(steps: Sequence[Tensor], probabilities: Sequence[float]) -> Tensor:
    """Mean of the steps' gradients under the probabilities of what they were taken on, which sum to one."""
    weights = torch.tensor(probabilities, dtype=torch.float64)
    assert torch.isclose(weights.sum(), torch.ones((), dtype=torch.float64))
    return torch.stack([step.double() for step in steps]).T @ weights


def relative_error(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|."""
    return float((value - truth).norm() / truth.norm())
