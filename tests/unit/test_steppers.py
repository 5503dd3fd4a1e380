"""Every way of stepping gives the logits of a plain forward pass over each row alone."""

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from juicer.models.forward import logits_of
from juicer.runtime.errors import InputError
from juicer.sampling import steppers
from juicer.sampling.steppers import STEPPERS, cache_of, measured_cache

TINY = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PROMPTS = [[11, 12, 13, 14, 15], [21, 22], [31, 32, 33], [41, 42, 43, 44]]
AFTER = [[51, 52, 53], [61, 62, 63], [71, 72, 73], [81, 82, 83]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY, initializer_range=0.5)).eval()


def alone(model: LlamaForCausalLM, row: list[int]) -> torch.Tensor:
    """The logits after a row, from a plain forward pass."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([row])).logits[0, -1]


@pytest.mark.parametrize("prefill", [1, 3, None])
@pytest.mark.parametrize("kind", STEPPERS)
def test_logits_are_those_of_each_row_alone(model, kind, prefill) -> None:
    with torch.no_grad():
        stepper = STEPPERS[kind](model, 0, PROMPTS, 3, prefill=prefill)
        rows = [list(prompt) for prompt in PROMPTS]
        given, live = stepper.first(), [0, 1, 2, 3]
        for step in range(3):
            expected = torch.stack([alone(model, rows[row]) for row in live])
            assert torch.allclose(logits_of(model, given), expected, atol=1e-4)
            if step == 1:
                live = [0, 2, 3]
                stepper.keep(torch.tensor([0, 2, 3]))
            for row in live:
                rows[row].append(AFTER[row][step])
            given = stepper.next(torch.tensor([AFTER[row][step] for row in live]))
        assert torch.allclose(
            logits_of(model, given), torch.stack([alone(model, rows[row]) for row in live]), atol=1e-4
        )


def test_prompts_are_read_a_few_at_a_time(model, monkeypatch) -> None:
    read: list[int] = []
    plain = steppers.last_features

    def noted(policy, tokens, *rest, **more):
        read.append(len(tokens))
        return plain(policy, tokens, *rest, **more)

    monkeypatch.setattr(steppers, "PREFILL_BATCH_SIZE", 3)
    monkeypatch.setattr(steppers, "last_features", noted)
    with torch.no_grad():
        STEPPERS["buffered"](model, 0, PROMPTS, 2).first()
    assert read == [3, 1]


def test_a_plain_transformer_is_sampled_with_the_buffered_cache(model) -> None:
    assert measured_cache(model) == "buffered"
    assert cache_of(model) == "buffered"


class Unsteady(GPTNeoXForCausalLM):
    """Says something else each time."""

    def forward(self, input_ids=None, **more):
        output = super().forward(input_ids, **{key: more[key] for key in more if key != "logits_to_keep"})
        output.logits = output.logits + torch.rand(1)
        return output


def test_a_model_that_agrees_with_itself_in_no_way_is_not_sampled() -> None:
    torch.manual_seed(0)
    model = Unsteady(GPTNeoXConfig(**TINY)).eval()
    assert measured_cache(model) is None
    with pytest.raises(InputError, match="no way of sampling from Unsteady agrees with its own logits"):
        cache_of(model)
