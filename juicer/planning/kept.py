"""Bytes of the models that the stages of a recipe keep: whole ones, or the adapters of all rounds since the last."""

from juicer.models.shape import Shape
from juicer.recipe.graph import SFT, Graph
from juicer.recipe.schema import Recipe
from juicer.settings.training import LoraSettings
from juicer.training.memory import WEIGHT


def kept_bytes(recipe: Recipe, graph: Graph, stage: str, shape: Shape) -> float:
    """Bytes that a training stage leaves: 4 for each number of a whole model, or of the adapters.

    Adapters of rank r on a layer have r times its inputs and outputs. Those of round t have the rank of all rounds up
    to t, and of SFT if that keeps adapters too; those of a reward have its head as well.

    Args:
        stage: name of a stage, for example irft_train@r2.
        shape: the model that it trains.
    """
    name, _, key = stage.partition("@")
    sft = recipe.sft.lora
    # With no epochs the SFT policy is the base model itself, and keeps nothing of its own.
    first = _rank(sft) if recipe.sft.epochs else 0
    rounds = int(key.removeprefix("r")) if key.startswith("r") else 1
    if name == "sft":
        lora, rank = sft, first
    elif name == "sft_matched":
        lora, rank = sft, first + _rank(sft)
    elif name == "irft_train":
        lora = recipe.irft.training.lora
        rank = first + rounds * _rank(lora)
    elif name == "rft_policy":
        lora = recipe.rft.policy.lora
        rank = first + rounds * _rank(lora)
    else:
        lora = recipe.rft.reward.lora
        rank = (first if graph.rft["r1"].reward == SFT else 0) + rounds * _rank(lora)
    if not _is_kept(lora):
        return shape.parameters * float(WEIGHT)
    head = shape.width if name == "rft_reward" else 0
    return (rank * shape.adapters + head) * float(WEIGHT)


def _is_kept(lora: LoraSettings | None) -> bool:
    return lora is not None and lora.save == "adapters"


def _rank(lora: LoraSettings | None) -> int:
    return lora.r if lora is not None and _is_kept(lora) else 0
