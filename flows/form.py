"""The form of the deployment `align`: the recipes, stages and overrides that it offers and accepts.

python -m flows.form        # bring the form on the server that PREFECT_API_URL names up to date with this folder

Prefect keeps a form as a JSON schema with the deployment and asks nobody when it shows it, so a new recipe appears
only when the schema is written anew. `juicer ui` does that as soon as a recipe or the graph in the folder changes.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prefect import runtime

from flows.workspace import ACTIVE, recipes
from juicer.recipe.schema import Recipe
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.stages.pipeline import declared, declared_stages, unknown_stage

ROOT = Path(__file__).resolve().parents[1]
OVERRIDE = rf"^({'|'.join(Recipe.model_fields)})(\.[^.=\s]+)*=[^\r\n]*$"
"""What an override has to look like: a parameter of one of the recipe's sections, and a value."""
NAME = r"^[A-Za-z0-9_-]*(@[A-Za-z0-9_.-]+)?$"
"""What the name of a stage looks like."""
LONGEST_NAME = 100


def stages(root: Path = ROOT) -> list[str]:
    """Names of the stages of the active recipe, in the order of dvc.yaml, each `foreach` before its stages.

    Empty where dvc.yaml or params.yaml cannot be read: a run says why.
    """
    try:
        found = list(declared_stages(read_yaml(root / "params.yaml"), root / "dvc.yaml"))
    except (InputError, OSError, LookupError, TypeError, ValueError):
        return []
    groups = [name.partition("@")[0] for name in found]
    return list(dict.fromkeys(name for pair in zip(groups, found, strict=True) for name in pair))


def choices() -> tuple[list[str], list[str]]:
    """What the form offers: recipes and stages."""
    return recipes(), stages()


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a field that is a list of the recipes."""
    return {"type": "string", "enum": [ACTIVE, *recipes()]}


def stage_schema(root: Path = ROOT) -> dict[str, Any]:
    """The JSON schema of a field that is a list of the stages, or takes a name that only an override brings about, such
    as irft_train@r9; only the latter where the stages cannot be read."""
    typed = {"title": "another stage", "type": "string", "pattern": NAME}
    listed = {"title": "a stage of the active recipe", "type": "string", "enum": ["", *stages(root)]}
    return {"anyOf": [listed, typed]} if stages(root) else {"type": "string", "pattern": NAME}


def check_stages(*names: str) -> None:
    """Raise InputError unless dvc.yaml has such stages. Whether a `foreach` has a key is known once its rounds are."""
    known = declared()
    for name in names:
        if name and name.partition("@")[0] not in known:
            raise unknown_stage(name, list(known))


def named(*parameters: str) -> Callable[[], str]:
    """What a flow run is called: as its user named it, and else by the values of parameters.

    Prefect names a run that nobody named by two words of its own, and asks for another name whenever the run starts:
    a name that a user gave, in the form or later, is kept here, also when the run is retried.
    """

    def name() -> str:
        there = runtime.flow_run.name or ""
        if not is_generated(there):
            return str(there)
        given = runtime.flow_run.parameters
        values = [given.get(parameter) for parameter in parameters]
        words = [str(word) for value in values for word in (value if isinstance(value, list) else [value]) if word]
        text = " ".join(words)
        return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"

    return name


def is_generated(name: str) -> bool:
    """Whether Prefect made up the name: an adjective and a noun of its lists."""
    words = name.split("-")
    return not name or (len(words) > 1 and set(words) <= _words())


@cache
def _words() -> frozenset[str]:
    from coolname.data import config

    tables: Mapping[str, Any] = config
    lists = [each["words"] for each in tables.values() if each["type"] == "words"]
    return frozenset(part for words in lists for word in words for part in re.split(r"[-\s]", word))


def refresh() -> None:
    """Write the form of `align` on the server anew.

    Raises:
        InputError: `align` is not deployed there.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    from flows.align import align

    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name("align/align")
        except ObjectNotFound as error:
            do = "deploy it: prefect --no-prompt deploy --all"
            raise InputError("align is not deployed on this server", where="align/align", do=do) from error
        schema = align.parameters.model_dump(exclude_unset=True)
        client.update_deployment(deployment.id, DeploymentUpdate(parameter_openapi_schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.form", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        from flows.server import check_server

        check_server()
        refresh()
        print(f"the form of align offers {len(recipes())} recipes and {len(stages())} stages")

    sys.exit(guarded(work, debug=given.debug, name="form"))


if __name__ == "__main__":
    main()
