"""Sampling as plain transformers does it: `generate`, prompts as they come, every row to the end of the longest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList


class EndAt(StoppingCriteria):
    """Ends each row at its own length. It costs next to nothing, so it does not slow the way that is compared with."""

    def __init__(self, lengths: Sequence[int], prompt: int) -> None:
        self._lengths, self._prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Any:
        return (self._lengths <= input_ids.shape[1] - self._prompt).to(input_ids.device)


def generate(
    policy: PreTrainedModel,
    template: Any,
    prompts: Sequence[list[int]],
    batch_size: int,
    seed: int,
    lengths: Sequence[int] | None = None,
    multiple: int = 1,
) -> list[list[int]]:
    """Responses with their end-of-text, without what follows.

    Args:
        template: says what the padding, the ends and the limit are.
        lengths: of the responses, a prompt each; without them a response ends where the policy ends it.
        multiple: prompts are padded to a length that it divides.
    """
    torch.manual_seed(seed)
    model: Any = policy
    responses: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        length = -(-max(map(len, batch)) // multiple) * multiple
        tokens = torch.full((len(batch), length), template.padding)
        attention = torch.zeros_like(tokens)
        for row, prompt in enumerate(batch):
            tokens[row, length - len(prompt) :] = torch.tensor(prompt)
            attention[row, length - len(prompt) :] = 1
        wanted = None if lengths is None else lengths[start : start + batch_size]
        forced: dict[str, Any] = (
            {}
            if wanted is None
            else {"stopping_criteria": StoppingCriteriaList([EndAt(wanted, length)]), "eos_token_id": -1}
        )
        made = model.generate(
            input_ids=tokens.to(policy.device),
            attention_mask=attention.to(policy.device),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=template.settings.max_response_tokens,
            pad_token_id=template.padding,
            **forced,
        )
        for number, row in enumerate(made[:, length:].tolist()):
            if wanted is None:
                end = next((place for place, token in enumerate(row, 1) if token in template.ends), len(row))
                responses.append(row[:end])
            else:
                responses.append([*row[: wanted[number] - 1], template.end_of_text])
    return responses
