"""Check that dvc.yaml lists the parameters that each stage reads, and the list of its program's code.

python -m dev.stage_dependencies            # say what is wrong, exit 1 if anything is

The stage `code` makes the lists of code (juicer/stages/code.py). Parameters are found in the programs: the keys given
to `stage.read` and `stage.value`.
"""

import argparse
import ast
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from juicer.runtime.errors import InputError
from juicer.stages.code import STAGE, Sources, list_of

ROOT = Path(__file__).resolve().parents[1]


def program_of(command: str) -> str:
    """The module that a stage's command runs, as a path: tasks/sft.py."""
    found = re.search(r"python -m ([\w.]+)", command)
    if found is None:
        raise ValueError(f"no `python -m` in {command!r}")
    return found[1].replace(".", "/") + ".py"


def parameters(program: str, sources: Sources, root: Path = ROOT) -> set[str]:
    """The keys that a stage reads: literals given to stage.read and stage.value in its modules of tasks."""
    keys = set()
    for path in sources.closure(program):
        if not path.startswith(("tasks/", "juicer/stages/")):
            continue
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"), path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called_on = node.func.value
            if (
                node.func.attr in ("read", "read_optional", "value")
                and isinstance(called_on, ast.Name)
                and called_on.id == "stage"
            ):
                key = node.args[0] if node.args else None
                if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                    raise ValueError(f"{path}:{node.lineno}: write the key as a literal, so that it can be checked")
                keys.add(key.value)
    return keys


def words_of(command: str) -> set[str]:
    """The keys of params.yaml that words of a command stand for, as `params` lists them (juicer/stages/words.py)."""
    words = (word for word in shlex.split(command) if word.startswith("@graph."))
    return {word.removeprefix("@").replace("@key", "${key}") for word in words}


def templates(graph: dict[str, Any]) -> dict[str, Any]:
    """The stages of dvc.yaml as written, `foreach` unwrapped."""
    return {name: stage.get("do", stage) for name, stage in graph["stages"].items()}


def code_of(name: str, stage: dict[str, Any]) -> list[str]:
    """What a stage has to list of code, after its data."""
    return ["juicer", "tasks"] if name == STAGE else [list_of(program_of(stage["cmd"]))]


def faults(text: str, root: Path = ROOT) -> list[str]:
    """What dvc.yaml lists wrongly, a sentence per fault."""
    wrong, sources = list[str](), Sources(root, remember=False)
    for name, stage in templates(YAML(typ="safe").load(text)).items():
        program, code = program_of(stage["cmd"]), code_of(name, stage)
        used = sorted(parameters(program, sources, root) | words_of(stage["cmd"]))
        listed = sorted(stage.get("params", []))
        deps = stage.get("deps", [])
        if deps[-len(code) :] != code or any(is_code(each) for each in deps[: -len(code)]):
            wrong.append(f"{name}: deps has to end with {', '.join(code)} and to name no other code")
        if "${" in stage["cmd"]:
            wrong.append(f"{name}: cmd has a value that a shell would read; see juicer/stages/words.py")
        if listed != used:
            wrong.append(f"{name}: params lists {listed}, but {program} or its command reads {used}")
    return wrong


def is_code(path: Any) -> bool:
    """Whether a dependency is a module, a folder of modules or a list of them."""
    return isinstance(path, str) and path.split("/")[0] in ("juicer", "tasks", "code")


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m dev.stage_dependencies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    wrong = faults((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    print("\n".join(wrong) if wrong else "dvc.yaml lists what the stages use")
    return int(bool(wrong))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
