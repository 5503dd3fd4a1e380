"""The stages of dvc.yaml: what each declares about itself, and the whole graph as DVC reads it.

Nothing else reads dvc.yaml. A stage says under `meta` what it needs and how it is recorded.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from juicer.runtime.errors import InputError, did_you_mean
from juicer.runtime.files import read_yaml, value_at
from juicer.settings.base import Settings

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

PIPELINE = Path("dvc.yaml")
VALUE = re.compile(r"\$\{\s*([^}\s]+)\s*\}")
Run = Literal["training", "evaluation", "leaderboard"]


class Meta(Settings):
    """What a stage declares under `meta` in dvc.yaml."""

    gpus: Literal[1, "per process"] | None = None
    """GPUs that the stage uses where there are any: one, or one for each of the recipe's processes."""
    run: Run | None = None
    """What kind of run the stage is in MLflow; None where it is none."""

    def gpus_of(self, processes: int) -> int:
        """GPUs that the stage uses where there are any, by the recipe's number of processes."""
        return 0 if self.gpus is None else processes if self.gpus == "per process" else min(self.gpus, processes)


@dataclass(frozen=True)
class PipelineStage:
    """A stage of dvc.yaml, with `foreach` and parameters resolved."""

    name: str
    """With the key of `foreach`: "irft_train@r1"."""
    command: str
    inputs: tuple[str, ...]
    """Paths of data and code, as dvc.yaml gives them."""
    parameters: tuple[str, ...]
    """Dotted keys of params.yaml."""
    outputs: tuple[str, ...]
    meta: Meta


def declared(path: Path = PIPELINE) -> dict[str, Meta]:
    """The meta of the stages of a dvc.yaml, by name without the key of `foreach`; {} if there is no such file."""
    if not path.is_file():
        return {}
    written = {name: stage.get("do", stage) for name, stage in read_yaml(path).get("stages", {}).items()}
    return {name: meta_of(name, stage.get("meta"), path) for name, stage in written.items()}


@dataclass(frozen=True)
class Declared:
    """What dvc.yaml lists for one stage."""

    inputs: tuple[str, ...]
    """Paths of data and code."""
    parameters: tuple[str, ...]
    """Dotted keys of params.yaml."""
    outputs: tuple[str, ...]


def declared_of(stage: str, params: Mapping[str, Any], path: Path = PIPELINE) -> Declared | None:
    """What dvc.yaml lists for a stage, resolved without DVC, whose import takes longer than many a stage.

    Args:
        stage: name, with the key of `foreach`.
        params: the content of params.yaml.

    Returns:
        None if dvc.yaml has no such stage, or its `foreach` no such key.
    """
    name = stage.partition("@")[0]
    written = read_yaml(path).get("stages", {}).get(name) if path.is_file() else None
    return None if written is None else _declared(name, written, params).get(stage)


def declared_stages(params: Mapping[str, Any], path: Path = PIPELINE) -> dict[str, Declared]:
    """`declared_of` for all stages."""
    written = read_yaml(path).get("stages", {}) if path.is_file() else {}
    found = dict[str, Declared]()
    for name, stage in written.items():
        found |= _declared(name, stage, params)
    return found


def _declared(name: str, written: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Declared]:
    if "foreach" not in written:
        return {name: _listed(written, params)}
    over = written["foreach"]
    items = _resolved(over, params) if isinstance(over, str) else over
    items = items if isinstance(items, dict) else {str(item): item for item in items or ()}
    return {
        f"{name}@{key}": _listed(written["do"], {**params, "key": key, "item": item}) for key, item in items.items()
    }


def _listed(written: Mapping[str, Any], values: Mapping[str, Any]) -> Declared:
    def of(*sections: str) -> tuple[str, ...]:
        entries = [entry for section in sections for entry in written.get(section, ())]
        return tuple(str(_resolved(next(iter(each)) if isinstance(each, dict) else each, values)) for each in entries)

    return Declared(of("deps"), of("params"), of("outs", "metrics", "plots"))


def _resolved(text: str, values: Mapping[str, Any]) -> Any:
    """A text of dvc.yaml with the values of its `${name}`; the value itself if the text is nothing else."""
    if whole := VALUE.fullmatch(text):
        return value_at(values, whole[1])
    return VALUE.sub(lambda found: str(value_at(values, found[1])), text)


def meta_of(stage: str, meta: object, path: Path = PIPELINE) -> Meta:
    """The meta of one stage.

    Raises:
        InputError: an unknown key or value.
    """
    return Meta.parse(meta or {}, f"{path}: {stage}: meta")


def pipeline(root: Path = Path()) -> list[PipelineStage]:
    """All stages of the pipeline in `root`, in the order of dvc.yaml, as DVC resolves them.

    Raises:
        InputError: a dvc.yaml or params.yaml that DVC refuses.
    """
    from dvc.repo import Repo

    with dvc_errors(), Repo(str(root.resolve()), uninitialized=True) as repo:
        return [resolved(stage) for stage in stages_of(repo)]


def stages_of(repo: "Repo") -> "Sequence[Stage]":
    """The stages of the project's dvc.yaml, in its order."""
    from dvc.dvcfile import PROJECT_FILE
    from dvc.repo.reproduce import collect_stages

    return collect_stages(repo, [str(Path(repo.root_dir) / PROJECT_FILE)])


def resolved(stage: "Stage") -> PipelineStage:
    """A stage of DVC's index as the project sees it."""
    from dvc.dependency.param import ParamsDependency

    parameters = [key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params]
    return PipelineStage(
        name=str(stage.name),
        command=stage.cmd,
        inputs=tuple(str(dep) for dep in stage.deps if not isinstance(dep, ParamsDependency)),
        parameters=tuple(parameters),
        outputs=tuple(str(out) for out in stage.outs),
        meta=meta_of(str(stage.name), stage.meta),
    )


@contextmanager
def dvc_errors() -> Iterator[None]:
    """What DVC refuses becomes an InputError."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise InputError(" ".join(str(error).split()), where="dvc") from error


def resolve(stage: str, root: Path = Path()) -> PipelineStage:
    """One stage by its name, with the key of `foreach`.

    Raises:
        InputError: there is no such stage, or DVC refuses the pipeline.
    """
    stages = pipeline(root)
    found = next((each for each in stages if each.name == stage), None)
    if found is None:
        raise unknown_stage(stage, [each.name for each in stages])
    return found


def unknown_stage(name: str, known: Sequence[str]) -> InputError:
    """The error for a stage that is not in the pipeline."""
    return InputError(f"no stage {name!r}", where=str(PIPELINE), do=did_you_mean(name, known))
