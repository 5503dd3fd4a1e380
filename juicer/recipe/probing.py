"""The models that a recipe names go through the probe, and its tokenizer through the template, before any work."""

from pathlib import Path
from typing import Any

from juicer.data.demonstrations import Message
from juicer.recipe.graph import WORLD_POLICY, config_of
from juicer.recipe.inputs import TOKENIZERS
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.settings.data import TemplateSettings


def probe_models(recipe: Recipe, where: str) -> list[str]:
    """Check that Juicer is exact on the recipe's policy and reward, on shrunken random models of their architectures.

    The quickstart's models, and those of a tiny recipe, are made by Juicer itself and are not probed. A model of the
    hub whose config.json is not kept with the project is probed once it is downloaded.

    Args:
        where: the recipe's file, for errors.

    Returns:
        One sentence per model.

    Raises:
        InputError: something does not hold on one of the models; says what.
    """
    if recipe.tiny is not None or recipe.policy.model == WORLD_POLICY:
        return []
    said = _probe_policy(recipe, where)
    if recipe.rft.rounds:
        _probe_reward(recipe, where)
    return said


def _probe_policy(recipe: Recipe, where: str) -> list[str]:
    model = recipe.policy.model
    try:
        path = config_of(model, "policy.model")
    except InputError:
        return [] if Path(model).is_dir() else [f"{model} is probed once it is downloaded"]
    from juicer.methods.probe import probe_policy
    from juicer.quickstart.configuration import read_config

    _, config = read_config(path)
    trained = [section for section, used in _trained(recipe) if used]
    lora = next((section.lora for section in trained if getattr(section, "lora", None)), None)
    recompute = any(section.gradient_checkpointing for section in trained)
    probed = probe_policy(
        config,
        where=f"{where}: policy.model: {model}",
        lora=lora,
        recompute=recompute,
        attention=recipe.compute.attention,
    )
    if any((Path(model) / name).is_file() for name in TOKENIZERS):
        probe_tokenizer(Path(model), recipe.template)
    return [f"{model} is exact: {probed}"]


def _trained(recipe: Recipe) -> list[tuple[Any, bool]]:
    """The sections that train the policy, and whether the recipe uses them."""
    return [
        (recipe.sft, recipe.sft.epochs > 0),
        (recipe.irft.training, bool(recipe.irft.rounds)),
        (recipe.rft.policy, bool(recipe.rft.rounds)),
    ]


def _probe_reward(recipe: Recipe, where: str) -> None:
    reward = recipe.rft.reward
    model, key = (reward.model, "rft.reward.model") if reward.model else (recipe.policy.model, "policy.model")
    try:
        path = config_of(model, key)
    except InputError:
        return
    from juicer.methods.probe import probe_reward
    from juicer.quickstart.configuration import read_config

    _, config = read_config(path)
    probe_reward(config, where=f"{where}: {key}: {model}", frozen_blocks=reward.frozen_blocks)


def probe_tokenizer(folder: Path, settings: TemplateSettings) -> None:
    """Check that a short dialogue survives the template and the tokenizer of a model folder.

    Raises:
        InputError: the template refuses it, or a response is not what its tokens decode to.
    """
    from juicer.models.loading import load_template

    template = load_template(folder, settings)
    prompt = [Message(role="user", content="Is the sea salty?"), Message(role="assistant", content="Yes, it is.")]
    prompt.append(Message(role="user", content="And a lake?"))
    response = "Most are not."
    found = template.decode(template.response(prompt, response))
    if found != response:
        what = f"the response {response!r} comes back from the tokenizer as {found[:100]!r}"
        raise InputError(what, where=str(folder), do="use the tokenizer that the model was trained with")
