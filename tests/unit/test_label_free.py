"""Choices without labels, held against a made-up oracle."""

import pytest

from bench.label_free import ANY, as_table, regrets
from juicer.evaluation.results import EvaluatedModel
from tests.example_evaluations import evaluation


def model(name: str, oracle: float, gap: float, nll: float) -> EvaluatedModel:
    values = evaluation(name, name.partition("-")[0], 0, quality=oracle)
    values["validation"] |= {"demonstration_gap": gap, "demonstration_nll": nll}
    return EvaluatedModel.parse(values, name)


def test_the_regret_is_the_distance_to_the_best_model_by_the_oracle() -> None:
    found = regrets([model("sft", 0.5, 0.1, 40.0), model("irft-r1", 0.75, 2.0, 45.0), model("rft-r1", 0.7, -3.0, 50.0)])
    assert found["reward_mean"] == 0.0
    assert (found["demonstration_gap"], found["demonstration_nll"]) == (0.25, 0.25)
    assert found[ANY] == pytest.approx(0.1)
    assert "| demonstration_nll | 0.250 |" in as_table({"world": [found]})


def test_without_an_oracle_nothing_is_said() -> None:
    values = evaluation("sft", "sft", 0, oracle=False)
    assert regrets([EvaluatedModel.parse(values, "sft"), model("irft-r1", 0.5, 0.0, 1.0)]) == {}
