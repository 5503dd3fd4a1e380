"""The steps that the code takes equal the paper's gradients, summed over every response of an enumerable world."""

from itertools import combinations_with_replacement

import pytest
import torch

from juicer.data.dialogues import Dialogue, Sample
from juicer.methods import policy_alignment, sft_variants
from juicer.methods.irft import irft_round
from juicer.methods.objectives import OBJECTIVES
from juicer.methods.pairs import Pair
from juicer.methods.policy_alignment import align_policy
from juicer.methods.reward import train_reward
from juicer.methods.sft_variants import train_variant
from juicer.models.loading import save_policy
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.irft import IrftTrainingSettings
from juicer.settings.rft import PolicyAlignmentSettings, RewardSettings
from juicer.settings.sft import DftSettings, GemSettings, SftSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings
from juicer.training.loop import shuffled_batches
from tests.enumerable import (
    END_OF_TEXT,
    World,
    expectation,
    flat_gradient,
    likelihood,
    objective,
    optimal_policy,
    recorded_steps,
    relative_error,
)

WORLD = World()
BETA = 0.3
COMPUTE = ComputeSettings(device="cpu", threads=1)
# Too small to change a weight, so that every step is taken from the same parameters.
STILL = OptimiserSettings(name="rmsprop", learning_rate=1e-300, warmup_ratio=0, max_gradient_norm=None)


def expected_step(model, demonstrations, samples, train):
    """The gradient of one step over pairs y ~ demonstrations, y' ~ samples, both (prompts, responses).

    A step is taken on each of all pairs, and counts with the probability of its pair.
    """
    pairs, probabilities = [], []
    for number, prompt in enumerate(WORLD.prompts):
        for row, y in enumerate(WORLD.responses):
            for column, y_prime in enumerate(WORLD.responses):
                pairs.append(Pair(Dialogue([*prompt], y), Dialogue([*prompt], y_prime)))
                probabilities.append(float(demonstrations[number, row] * samples[number, column]) / len(WORLD.prompts))
    with recorded_steps(model) as steps:
        train(pairs)
    order = [row for rows in shuffled_batches(len(pairs), 1, 1.0, seed=0) for row in rows]
    return expectation(steps, [probabilities[row] for row in order])


def irft_step(policy, reference, demonstrations, samples, objective):
    settings = IrftTrainingSettings(epochs=1, batch_size=1, objective=objective, beta=BETA, optimiser=STILL)

    def train(pairs):
        irft_round(policy, reference, pairs, settings, END_OF_TEXT, seed=0)

    return expected_step(policy, demonstrations, samples, train)


def reward_step(reward, demonstrations, samples, h):
    settings = RewardSettings(epochs=1, batch_size=1, h=h, optimiser=STILL)
    return expected_step(
        reward, demonstrations, samples, lambda pairs: train_reward(reward, pairs, settings, END_OF_TEXT, seed=0)
    )


def test_all_responses_of_a_policy_have_probability_one_together():
    total = WORLD.log_policy(WORLD.make_policy(0)).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_policy_can_be_made_any_distribution():
    policy, wanted = WORLD.make_policy(0), WORLD.draw_distribution(1)
    WORLD.realise(policy, wanted)
    torch.testing.assert_close(WORLD.log_policy(policy).exp(), wanted, atol=1e-10, rtol=0)


def test_every_response_is_sampled_as_often_as_the_policy_says():
    policy, count = WORLD.make_policy(0), 2000
    WORLD.realise(policy, WORLD.draw_distribution(1))
    prompts = [(str(number), [*prompt]) for number, prompt in enumerate(WORLD.prompts)]
    settings = SamplingSettings(samples_per_prompt=count, batch_size=1000)
    samples = sample_responses(policy, WORLD.template(), prompts, settings, seed=0)
    for number, probabilities in enumerate(WORLD.draw_distribution(1)):
        drawn = [WORLD.responses.index(sample.response) for sample in samples if sample.id == str(number)]
        counts = torch.bincount(torch.tensor(drawn), minlength=len(WORLD.responses))
        deviation = (count * probabilities * (1 - probabilities)).sqrt()
        assert ((counts - count * probabilities).abs() < 4 * deviation).all()


@pytest.mark.parametrize(("objective", "share"), [("identity", 1.0), ("logistic", 0.5)])
def test_the_first_irft_step_of_a_round_is_equation_2(objective, share):
    policy, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(1)
    samples = WORLD.log_policy(policy).detach().exp()
    # The loss is -beta times (2), by its definition; log sigmoid has the slope 1/2 where rewards are equal.
    step = -irft_step(policy, policy, demonstrations, samples, objective) / (BETA * share)
    truth = flat_gradient(likelihood(WORLD.log_policy(policy), demonstrations), policy)
    assert relative_error(step, truth) < 1e-6


def test_an_irft_step_is_equation_2_whatever_the_reference():
    policy, reference, demonstrations = WORLD.make_policy(0), WORLD.make_policy(9), WORLD.draw_distribution(1)
    samples = WORLD.log_policy(policy).detach().exp()
    step = -irft_step(policy, reference, demonstrations, samples, "identity") / BETA
    truth = flat_gradient(likelihood(WORLD.log_policy(policy), demonstrations), policy)
    assert relative_error(step, truth) < 1e-6


@pytest.mark.parametrize("objective", ["identity", "logistic"])
def test_a_later_step_contrasts_demonstrations_with_the_samples_of_the_round_s_start(objective):
    policy, reference, demonstrations = WORLD.make_policy(0), WORLD.make_policy(9), WORLD.draw_distribution(1)
    samples = WORLD.draw_distribution(2)
    step = irft_step(policy, reference, demonstrations, samples, objective)
    reward = BETA * (WORLD.log_policy(policy) - WORLD.log_policy(reference).detach())
    margin = reward[:, :, None] - reward[:, None, :]
    loss = -(margin if objective == "identity" else margin.sigmoid().log())
    truth = flat_gradient((demonstrations[:, :, None] * samples[:, None, :] * loss).sum((1, 2)).mean(), policy)
    assert relative_error(step, truth) < 1e-6


@pytest.mark.parametrize("objective", ["identity", "logistic"])
def test_irft_leaves_a_policy_alone_that_is_the_demonstrations(objective):
    policy = WORLD.make_policy(0)
    samples = WORLD.log_policy(policy).detach().exp()
    elsewhere = flat_gradient(likelihood(WORLD.log_policy(policy), WORLD.draw_distribution(1)), policy)
    assert irft_step(policy, policy, samples, samples, objective).norm() < 1e-6 * BETA * elsewhere.norm()


SLOPES = {"brier": 0.25, "bernoulli": 0.5, "logistic": 0.5, "space": 0.5}
"""By which an objective multiplies (2) where both rewards are zero, if it is not 1."""
COUNTS = torch.tensor([1 + place % 3 for place in range(len(WORLD.responses))]).expand(len(WORLD.prompts), -1)
"""How often each response is demonstrated."""
BY_THEIR_EQUATIONS = {
    "logistic": lambda y, y_prime: (y_prime - y).exp().log1p(),
    "identity": lambda y, y_prime: y_prime - y,
    "space": lambda y, y_prime: (-y).exp().log1p() + y_prime.exp().log1p(),
    "bernoulli": lambda y, y_prime: (-y).exp().log1p() + y_prime.exp().log1p(),
    "brier": lambda y, y_prime: (1 / (1 + y.exp())) ** 2 + (1 / (1 + (-y_prime).exp())) ** 2,
    "hinge": lambda y, y_prime: (1 - y).clamp(min=0) + (1 + y_prime).clamp(min=0),
    "kliep": lambda y, y_prime: y_prime.exp() - y,
    "lsif": lambda y, y_prime: y_prime.exp() ** 2 / 2 - y.exp(),
    "spif": lambda y, y_prime: y_prime - y + y**2 / 2 + y_prime**2 / 2,
}
"""Of the rewards of demonstration and sample, written anew."""


def uniform_policy():
    policy = WORLD.make_policy(0)
    WORLD.realise(policy, torch.full(COUNTS.shape, 1 / len(WORLD.responses), dtype=torch.float64))
    return policy


def step_on_counts(policy, reference, counts, objective):
    """The gradient of one step over all pairs at once: each y so often, each y' once, as a uniform policy samples."""
    pairs = [
        Pair(Dialogue([*prompt], y), Dialogue([*prompt], y_prime))
        for prompt, often in zip(WORLD.prompts, counts, strict=True)
        for y, times in zip(WORLD.responses, often.tolist(), strict=True)
        for y_prime in WORLD.responses
        for _ in range(times)
    ]
    settings = IrftTrainingSettings(
        epochs=1, batch_size=len(pairs), micro_batch_size=None, objective=objective, beta=BETA, optimiser=STILL
    )
    with recorded_steps(policy) as steps:
        irft_round(policy, reference, pairs, settings, END_OF_TEXT, seed=0)
    (step,) = steps
    return step


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_first_step_of_every_objective_is_a_multiple_of_equation_2(objective):
    policy = uniform_policy()
    step = -step_on_counts(policy, policy, COUNTS, objective) / (BETA * SLOPES.get(objective, 1.0))
    truth = flat_gradient(likelihood(WORLD.log_policy(policy), COUNTS / COUNTS.sum(1, keepdim=True)), policy)
    assert relative_error(step, truth) < 1e-6


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_later_step_of_every_objective_has_the_gradient_of_its_equation(objective):
    policy, reference = WORLD.make_policy(4), uniform_policy()
    step = step_on_counts(policy, reference, COUNTS, objective)
    reward = BETA * (WORLD.log_policy(policy) - WORLD.log_policy(reference).detach())
    loss = BY_THEIR_EQUATIONS[objective](reward[:, :, None], reward[:, None, :])
    loss = loss.expand(-1, len(WORLD.responses), len(WORLD.responses)).mean(2)
    truth = flat_gradient((loss * COUNTS / COUNTS.sum(1, keepdim=True)).sum(1).mean(), policy)
    assert relative_error(step, truth) < 1e-6


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_leaves_a_policy_alone_that_is_the_demonstrations(objective):
    policy = uniform_policy()
    elsewhere = step_on_counts(policy, policy, COUNTS, objective).norm()
    assert step_on_counts(policy, policy, torch.ones_like(COUNTS), objective).norm() < 1e-6 * elsewhere


def test_a_reward_step_of_rft_is_equation_2():
    reference, reward, demonstrations = WORLD.make_policy(0), WORLD.make_reward(3), WORLD.draw_distribution(1)
    log_reference = WORLD.log_policy(reference).detach()
    samples = optimal_policy(log_reference, WORLD.reward(reward).detach(), BETA).exp()
    step = -reward_step(reward, demonstrations, samples, "identity") / BETA
    truth = flat_gradient(likelihood(optimal_policy(log_reference, WORLD.reward(reward), BETA), demonstrations), reward)
    assert relative_error(step, truth) < 1e-6


def test_only_the_identity_leaves_the_reward_alone_once_the_policy_is_the_demonstrations():
    reward, demonstrations = WORLD.make_reward(3), WORLD.draw_distribution(1)
    identity, logistic = (
        reward_step(reward, demonstrations, demonstrations, h).norm() for h in ("identity", "logistic")
    )
    # log sigmoid weighs the pairs that the reward has in the wrong order more: bounded, but not (2).
    assert identity < 1e-6 * logistic


def variant_step(policy, rows, probabilities, samples, **objective):
    """The mean gradient of one step on each row, under the rows' probabilities.

    A row's loss is divided by the mean length of all demonstrations, which is taken back here.
    """
    settings = SftSettings(epochs=1, batch_size=1, optimiser=STILL, **objective)
    with recorded_steps(policy) as steps:
        train_variant(policy, rows, samples, settings, END_OF_TEXT, COMPUTE, seed=0)
    order = [row for batch in shuffled_batches(len(rows), 1, 1.0, seed=0) for row in batch]
    mean_length = sum(len(row.response) for row in rows) / len(rows)
    return mean_length * expectation(steps, [probabilities[row] for row in order])


def gem_step(policy, demonstrations, temperature):
    """The expected step of GEM over all demonstrations y ~ demonstrations, (prompts, responses)."""
    rows = [Dialogue([*prompt], y) for prompt in WORLD.prompts for y in WORLD.responses]
    probabilities = (demonstrations / len(WORLD.prompts)).flatten().tolist()
    return variant_step(policy, rows, probabilities, [], objective="gem", gem=GemSettings(temperature=temperature))


def dft_step(policy, demonstrations, reference, monkeypatch, temperature=1.0, moving_average=1e-12):
    """The expected step of DFT with one sample, over all y ~ demonstrations and y' ~ reference.

    The policy may have left the reference already: the log-probabilities of the latter are put in the place of the
    policy's. With so small a moving average u stays the 1 that it is at first.
    """
    rows, samples, log_reference, probabilities = [], [], [], []
    for number, prompt in enumerate(WORLD.prompts):
        for row, y in enumerate(WORLD.responses):
            for column, y_prime in enumerate(WORLD.responses):
                rows.append(Dialogue([*prompt], y))
                samples.append([Dialogue([*prompt], y_prime)])
                log_reference.append(float(reference[number, column].log()))
                joint = demonstrations[number, row] * reference[number, column]
                probabilities.append(float(joint) / len(WORLD.prompts))
    monkeypatch.setattr(sft_variants, "score_dialogues", lambda *given, context: torch.tensor(log_reference))
    dft = DftSettings(samples=1, temperature=temperature, moving_average=moving_average)
    return variant_step(policy, rows, probabilities, samples, objective="dft", dft=dft)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_an_expected_step_of_gem_is_the_gradient_of_entropic_matching(temperature):
    policy, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(1)
    step = gem_step(policy, demonstrations, temperature)
    value = (demonstrations * WORLD.entropic_matching(policy, temperature)).sum(1).mean()
    assert relative_error(step, flat_gradient(value, policy)) < 1e-6


def test_gem_at_temperature_1_takes_the_steps_of_the_likelihood():
    policy, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(1)
    truth = flat_gradient(likelihood(WORLD.log_policy(policy), demonstrations), policy)
    assert relative_error(-gem_step(policy, demonstrations, 1.0), truth) < 1e-6


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_gem_leaves_a_policy_alone_that_is_the_demonstrations_at_its_temperature(temperature):
    policy, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(1)
    WORLD.realise(policy, demonstrations)
    if temperature < 1:
        sharp = gem_step(policy, demonstrations, temperature)
        # Logits b log p_data: softmax(z / b) is p_data, and the policy is flatter than the data.
        with torch.no_grad():
            policy.get_output_embeddings().weight.mul_(temperature)
    else:
        sharp = gem_step(policy, demonstrations, 0.7)
    assert gem_step(policy, demonstrations, temperature).norm() < 1e-5 * sharp.norm()


def test_a_step_of_dft_at_its_start_is_that_of_the_likelihood(monkeypatch):
    policy, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(1)
    reference = WORLD.log_policy(policy).detach().exp()
    step = dft_step(policy, demonstrations, reference, monkeypatch, moving_average=0.85)
    truth = flat_gradient(likelihood(WORLD.log_policy(policy), demonstrations), policy)
    assert relative_error(-step, truth) < 1e-6


def test_a_step_of_dft_at_temperature_1_with_the_exact_normaliser_is_that_of_the_likelihood(monkeypatch):
    policy, reference, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(2), WORLD.draw_distribution(1)
    step = dft_step(policy, demonstrations, reference, monkeypatch)
    truth = flat_gradient(likelihood(WORLD.log_policy(policy), demonstrations), policy)
    assert relative_error(-step, truth) < 1e-6


def test_an_expected_step_of_dft_is_the_gradient_of_its_objective_for_its_normaliser(monkeypatch):
    policy, reference, demonstrations = WORLD.make_policy(0), WORLD.draw_distribution(2), WORLD.draw_distribution(1)
    tau, gamma = 2.0, 0.4
    step = dft_step(policy, demonstrations, reference, monkeypatch, tau, gamma)
    log_policy = WORLD.log_policy(policy)
    ratio = (log_policy / tau).exp() / reference
    # tau times the gradient of the ratio, over the normaliser that the sample itself has moved from 1.
    contrast = tau * (reference * ratio / (gamma * ratio.detach() + 1 - gamma)).sum(1).mean()
    truth = flat_gradient(contrast - likelihood(log_policy, demonstrations), policy)
    assert relative_error(step, truth) < 1e-6


def align_over_all_groups(policy, reference, reward, normaliser, folder, monkeypatch):
    """RLOO's expected gradient: the trainer gets every pair of responses to every prompt in turn from the sampler."""
    groups = list(combinations_with_replacement(range(len(WORLD.responses)), 2))
    probability = WORLD.log_policy(policy).detach().exp()
    turns, probabilities = dict.fromkeys(WORLD.prompts, 0), []

    def enumerate_responses(model, template, named, sampling, seed, context):
        (prompt,) = {tuple(tokens) for _, tokens in named}
        group = groups[turns[prompt]]
        turns[prompt] += 1
        one, other = (float(probability[WORLD.prompts.index(prompt), row]) for row in group)
        orders = 1 if group[0] == group[1] else 2
        probabilities.append(one * other * orders / len(WORLD.prompts))
        chosen = [WORLD.responses[row] for row in group]
        return [
            Sample(name, 0, tokens, response, response[-1] == END_OF_TEXT, 0.0)
            for (name, tokens), response in zip(named, chosen, strict=True)
        ]

    monkeypatch.setattr(policy_alignment, "sample_responses", enumerate_responses)
    template = WORLD.template()
    save_policy(reference, template, folder / "reference", None)
    settings = PolicyAlignmentSettings(
        steps=len(groups) * len(WORLD.prompts),
        prompts_per_step=1,
        samples_per_prompt=2,
        kl_coefficient=BETA,
        optimiser=STILL,
    )
    prompts = [[{"role": "user", "content": WORLD.text(prompt)}] for prompt in WORLD.prompts]
    with recorded_steps(policy) as steps:
        align_policy(
            policy,
            folder / "reference",
            reward,
            normaliser,
            template,
            prompts,
            settings,
            ComputeSettings(device="cpu", threads=1),
            0,
            folder / "scratch",
        )
    assert set(turns.values()) == {len(groups)}
    return expectation(steps, probabilities)


def test_rloo_s_expected_gradient_is_that_of_the_reward_less_the_divergence(tmp_path, monkeypatch):
    policy, reference, reward = WORLD.make_policy(5), WORLD.make_policy(0), WORLD.make_reward(3)
    mean, deviation = -1.0, 2.0
    step = -align_over_all_groups(policy, reference, reward, (mean, deviation), tmp_path, monkeypatch)
    normalised = (WORLD.reward(reward).detach() - mean) / deviation
    value = objective(WORLD.log_policy(policy), WORLD.log_policy(reference).detach(), normalised, BETA)
    assert relative_error(step, flat_gradient(value, policy)) < 1e-6


@pytest.mark.slow
def test_the_closed_form_optimum_is_a_fixed_point_of_policy_alignment(tmp_path, monkeypatch):
    policy, reference, reward = WORLD.make_policy(5), WORLD.make_policy(0), WORLD.make_reward(3)
    log_reference, values = WORLD.log_policy(reference).detach(), WORLD.reward(reward).detach()
    optimum = optimal_policy(log_reference, values, BETA)
    elsewhere = flat_gradient(objective(WORLD.log_policy(policy), log_reference, values, BETA), policy)
    WORLD.realise(policy, optimum.exp())
    step = align_over_all_groups(policy, reference, reward, (0.0, 1.0), tmp_path, monkeypatch)
    assert step.norm() < 1e-5 * elsewhere.norm()


def test_no_policy_is_better_than_the_closed_form_optimum():
    log_reference = WORLD.log_policy(WORLD.make_policy(0)).detach()
    reward = WORLD.reward(WORLD.make_reward(3)).detach()
    best = objective(optimal_policy(log_reference, reward, BETA), log_reference, reward, BETA)
    # Its value is beta E[log Z(x)].
    assert best.item() == pytest.approx(BETA * (log_reference + reward / BETA).logsumexp(1).mean().item(), abs=1e-12)
    for seed in range(20):
        assert objective(WORLD.draw_distribution(seed).log(), log_reference, reward, BETA) < best
