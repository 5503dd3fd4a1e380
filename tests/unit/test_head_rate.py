"""Heads are cross-validated over prompts, on the difference between the two responses."""

import torch

from bench.head_rate import accuracy


def test_a_head_at_a_high_rate_finds_a_direction_that_one_at_a_low_rate_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(60, 2, 32, generator=generator)
    read[:, 0, 3] += 8.0  # the chosen response
    prompts = [str(place) for place in range(60)]
    assert accuracy(read, prompts, 1e-1, 8) > 0.9
    assert accuracy(read, prompts, 1e-6, 1) < 0.8


def test_pairs_of_one_prompt_are_in_one_fold() -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = [str(place // 6) for place in range(60)]
    of_prompt = torch.randn(10, 64, generator=generator)
    # Within a prompt all pairs are alike; between prompts they have nothing in common.
    chosen = of_prompt[[int(name) for name in prompts]]
    read = torch.stack([chosen, torch.zeros_like(chosen)], dim=1)
    assert accuracy(read, prompts, 1e-1, 8) < 0.9
    assert accuracy(read, [str(place) for place in range(60)], 1e-1, 8) > 0.95
