"""Registered versions, for promotion, restoration and evaluation on demand."""

import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.evaluation.results import ShownSample
from juicer.registry.aliases import Aliases
from juicer.registry.figures import described_anew, figures_of, former, measured_anew
from juicer.registry.per_prompt import FILE as PER_PROMPT
from juicer.registry.per_prompt import PerPromptFigures
from juicer.registry.provenance import checkout_tags, git_tags
from juicer.registry.store import Measured, connect, every_page, log_points, log_samples, time_to_upload
from juicer.runtime.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


WEIGHTS = "weights_in_mlflow"
"""Tag of a version whose weights were uploaded: their md5 in DVC."""
EXTERNAL = "mlflow.model.isExternal"
HELD_OUT, LEADERBOARD = "held_out/", "leaderboard/"
MOST_EVALUATIONS = 20
"""Evaluations of models of one name that are looked through, the newest first."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    tags: dict[str, str]
    run: str
    """Id of the run that made it."""
    logged_model: str
    """Id of the logged model that holds, or will hold, its weights."""
    aliases: tuple[str, ...] = field(default=())
    description: str = ""

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.number}"

    @property
    def metrics(self) -> dict[str, float]:
        """What the newest evaluation measured, on held-out prompts."""
        return figures_of(self.tags)


@contextmanager
def open_registry(uri: str) -> Iterator["Registry"]:
    """The registry at a tracking URI.

    Raises:
        InputError: MLflow cannot be reached or refuses, here or in the body.
    """
    with connect(uri) as client:
        yield Registry(client)


class Registry:
    """The registered models of one MLflow."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def find(self, reference: str) -> Version:
        """The version that `reference` (models:/NAME/VERSION or models:/NAME@ALIAS) points to.

        Raises:
            InputError: no such model, version or alias; the message names those that exist.
        """
        parts = REFERENCE.fullmatch(reference)
        if parts is None:
            do = "write models:/NAME/VERSION or models:/NAME@ALIAS"
            raise InputError(f"{reference!r} is not a reference to a registered model", do=do)
        name = parts["name"]
        aliases = self._all_aliases(name)
        number = parts["version"]
        if parts["alias"]:
            if parts["alias"] not in aliases:
                hint = did_you_mean(parts["alias"], sorted(aliases))
                raise InputError(f"{name} has no alias {parts['alias']!r}", do=hint)
            number = aliases[parts["alias"]]
        versions = {
            str(each.version): each for each in every_page(self._client.search_model_versions, filter_string=_of(name))
        }
        if number not in versions:
            known = ", ".join(sorted(versions, key=int)) or "none; register some: dvc repro register"
            raise InputError(f"{name} has no version {number}", do=f"versions: {known}")
        version = versions[number]
        carried = tuple(sorted(alias for alias, there in aliases.items() if there == number))
        logged_model = version.source.removeprefix("models:/")
        said = version.description or ""
        return Version(name, number, dict(version.tags), version.run_id, logged_model, carried, said)

    def find_by_md5(self, name: str, md5: str) -> Version | None:
        """The newest version whose weights have this md5, None if there is none."""
        query = f"{_of(name)} AND tags.dvc_md5 = '{md5}'"
        numbers = [int(each.version) for each in every_page(self._client.search_model_versions, filter_string=query)]
        return self.find(f"models:/{name}/{max(numbers)}") if numbers else None

    def kept_text(self, version: Version, name: str) -> str:
        """A text that `register` kept with the run that made the version.

        Raises:
            InputError: the artifact is missing.
        """
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self._client.download_artifacts(version.run, name, folder)
            except (MlflowException, OSError) as error:
                do = "if the artifacts were deleted, delete that run too and register again: dvc repro register"
                raise InputError(f"{name} is not among the artifacts of its run", where=version.uri, do=do) from error
            return Path(path).read_text(encoding="utf-8")

    def figures_of(self, version: Version, model: str) -> dict[str, float]:
        """Metrics of another model, such as base: held-out ones measured on the same prompts as those of `version`, and
        the newest of the leaderboard if there are any.

        Raises:
            InputError: there are no such metrics.
        """
        judged = version.tags.get("evaluated_on")
        if judged is None:
            do = f"dvc repro register, or: juicer evaluate {version.uri}"
            raise InputError("the version was not evaluated", where=version.uri, do=do)
        experiment = self._client.get_run(version.run).info.experiment_id
        held_out = self._newest(experiment, f"tags.model = '{model}' AND tags.evaluated_on = '{judged}'")
        if held_out is None:
            do = f"dvc repro evaluate@{model} && dvc repro register"
            raise InputError(f"{model} was not evaluated on the same prompts", where=version.uri, do=do)
        measured = self._newest(experiment, f"tags.model = '{model}' AND tags.stage = 'leaderboard'") or {}
        return {key.removeprefix(HELD_OUT): value for key, value in held_out.items() if key.startswith(HELD_OUT)} | {
            key.replace(LEADERBOARD, "leaderboard_"): value
            for key, value in measured.items()
            if key.startswith(LEADERBOARD)
        }

    def per_prompt_of(self, version: Version, model: str, figures: Mapping[str, float]) -> PerPromptFigures | None:
        """What was measured of a model on each of the prompts of `version`; None if that was not kept.

        Args:
            model: `version` itself, by its tag, or another such as base.
            figures: the model's metrics, by which its evaluation is found among those of models of the same name.
        """
        from mlflow.exceptions import MlflowException

        if (judged := version.tags.get("evaluated_on")) is None:
            return None
        experiment = self._client.get_run(version.run).info.experiment_id
        query = f"tags.model = '{model}' AND tags.evaluated_on = '{judged}' AND attributes.status = 'FINISHED'"
        order = ["attributes.start_time DESC"]
        for run in self._client.search_runs([experiment], query, max_results=MOST_EVALUATIONS, order_by=order):
            there = {key.removeprefix(HELD_OUT): value for key, value in run.data.metrics.items()}
            if not all(math.isclose(there[key], figures[key], rel_tol=1e-4) for key in there.keys() & figures.keys()):
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    path = self._client.download_artifacts(run.info.run_id, PER_PROMPT, folder)
                except (MlflowException, OSError):
                    continue  # registered before these were kept
                return PerPromptFigures.read(Path(path))
        return None

    def aliases_of(self, name: str) -> Aliases:
        """The aliases of a registered model, for moving them."""
        self._all_aliases(name)
        return Aliases(self._client, name)

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(version.name, version.number, key, value)

    def has_weights(self, version: Version) -> bool:
        """Whether the version's weights are in MLflow."""
        return WEIGHTS in version.tags and version.tags[WEIGHTS] == version.tags["dvc_md5"]

    def upload(self, version: Version, model: Path, card: str) -> None:
        """Upload an MLflow model as the artifacts of a version."""
        with time_to_upload():
            self._client.log_model_artifacts(version.logged_model, str(model))
        if EXTERNAL in self._client.get_logged_model(version.logged_model).tags:
            self._client.delete_logged_model_tag(version.logged_model, EXTERNAL)
        self._client.update_model_version(version.name, version.number, card)
        # Last: an interrupted upload is repeated.
        self.tag(version, {WEIGHTS: version.tags["dvc_md5"]})

    def note_evaluation(
        self,
        version: Version,
        figures: dict[str, float],
        judged_on: str,
        samples: list[ShownSample],
        per_prompt: PerPromptFigures | None = None,
    ) -> None:
        """Record an evaluation as a run of its own, and its metrics in a tag of the version."""
        experiment = self._client.get_run(version.run).info.experiment_id
        tags = {key: value for key, value in version.tags.items() if key in ("recipe", "model", "method", "round")}
        tags |= {"stage": "evaluate", "version": version.number, "evaluated_on": judged_on}
        tags |= checkout_tags(git_tags()) | {"mlflow.source.name": "juicer evaluate"}
        run = self._client.create_run(experiment, tags=tags, run_name=f"evaluate {version.uri}").info.run_id
        points = [(_metric_of(key), value, time.time(), 0) for key, value in figures.items()]
        log_points(self._client, run, points, Measured(version.logged_model))
        if samples:
            log_samples(self._client, run, samples)
        if per_prompt is not None:
            self._client.log_text(run, json.dumps(per_prompt.as_json()), PER_PROMPT)
        self._client.set_terminated(run, "FINISHED")
        measured, gone = measured_anew(version.tags, figures, judged_on), former(version.tags)
        after = {key: value for key, value in version.tags.items() if key not in gone} | measured
        if text := described_anew(version.description, version.tags, after):  # first, as `register` does
            self._client.update_model_version(version.name, version.number, text)
        self.tag(version, measured)
        for key in gone:
            self._client.delete_model_version_tag(version.name, version.number, key)

    def subscribe(self, url: str, secret: str) -> None:
        """Have MLflow call `url` when a version is created or an alias set, signed with `secret`; once per URL."""
        for webhook in every_page(self._client.list_webhooks):
            if webhook.url == url:
                self._client.delete_webhook(webhook.webhook_id)
        self._client.create_webhook(
            "juicer", url, ["model_version.created", "model_version_alias.created"], secret=secret
        )

    def audit(self, version: Version, name: str, tags: dict[str, str], files: dict[str, str], *, ended: bool) -> str:
        """Record a decision about a version as a run, ended or not; returns its id."""
        experiment = self._client.get_run(version.run).info.experiment_id
        tags = tags | checkout_tags(git_tags()) | {"mlflow.source.name": "juicer promote"}
        run = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
        for file, text in files.items():
            self._client.log_text(run, text, file)
        if ended:
            self._client.set_terminated(run, "FINISHED")
        return str(run)

    def _newest(self, experiment: str, wanted: str) -> dict[str, float] | None:
        """Metrics of the newest finished run that the filter `wanted` matches, None if there is none."""
        query = f"{wanted} AND attributes.status = 'FINISHED'"
        runs = self._client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
        return runs[0].data.metrics if runs else None

    def _all_aliases(self, name: str) -> dict[str, str]:
        """Alias to version number.

        Raises:
            InputError: no such registered model; the message names the nearest one.
        """
        models = {model.name: model for model in every_page(self._client.search_registered_models)}
        if name not in models:
            hint = did_you_mean(name, sorted(models)) or "register one: dvc repro register"
            raise InputError(f"no registered model {name!r}", do=hint)
        return {alias: str(version) for alias, version in models[name].aliases.items()}


def name_of(reference: str) -> str:
    """The name of the registered model in a reference; a bare name is returned as it is."""
    parts = REFERENCE.fullmatch(reference)
    return parts["name"] if parts else reference


def _metric_of(figure: str) -> str:
    """The name that a metric has in a run."""
    benchmark = figure.removeprefix("leaderboard_")
    return f"{LEADERBOARD}{benchmark}" if benchmark != figure else f"{HELD_OUT}{figure}"


def _of(name: str) -> str:
    return f"name = '{name}'"
