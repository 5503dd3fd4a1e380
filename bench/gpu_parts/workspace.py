"""A folder in which the real stage programs run as a user runs them, several at a time, on other devices."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.gpu_parts.common import ROOT, remove
from juicer.recipe.activation import dump, load
from juicer.stages.gpus import SHARED


@dataclass(frozen=True)
class Step:
    """One stage: its program, arguments and output, and the stages whose outputs it reads.

    An argument that names a stage stands for that stage's output.
    """

    module: str
    out: str
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def placed(steps: Mapping[str, Step], places: Mapping[str, str]) -> dict[str, Step]:
    """The steps with these arguments replaced."""
    return {
        name: replace(step, arguments=tuple(places.get(each, each) for each in step.arguments))
        for name, step in steps.items()
    }


class Workspace:
    """Runs stages; the outputs of the first variant are what the others read.

    Args:
        folder: is made if it is not there.
        recipe: file of the recipe.
        variants: overrides of each variant; the first is the one whose outputs the others read.
        steps: by name.
    """

    def __init__(
        self, folder: Path, recipe: Path, variants: Mapping[str, Sequence[str]], steps: Mapping[str, Step]
    ) -> None:
        self.folder, self.steps, self.variants = folder, steps, list(variants)
        self.first = self.variants[0]
        folder.mkdir(parents=True, exist_ok=True)
        for name, overrides in variants.items():
            self._params(name).write_text(dump(*load(recipe, overrides)), encoding="utf-8")

    def out(self, step: str, variant: str | None = None) -> Path:
        """Where a stage's output is."""
        return self.folder / (variant or self.first) / self.steps[step].out

    def require(self, step: str) -> None:
        """Make what `step` reads, and what that reads, where it is not there."""
        for needed in self.steps[step].needs:
            self.require(needed)
            if not self.out(needed).exists():
                self.run(needed, [self.first])

    def run(self, step: str, variants: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Run a stage in some variants at the same time; what is there of it is made again.

        Returns:
            the costs that each noted: seconds, memory, speed.

        Raises:
            RuntimeError: one failed; the end of what it printed.
        """
        running = {}
        for variant in variants:
            remove(self.out(step, variant))
            log = self.folder / f"{variant}-{step}.log"
            with log.open("wb") as output:
                running[variant] = (
                    subprocess.Popen(
                        self._command(step, variant), cwd=self.folder, env=_environment(), stdout=output, stderr=output
                    ),
                    log,
                )
        failed = []
        for variant, (process, log) in running.items():
            if process.wait():
                told = log.read_text(encoding="utf-8", errors="replace").strip() or f"exit code {process.returncode}"
                failed.append(f"{step} ({variant}): {told.splitlines()[-1]}\n{told[-1500:]}")
        if failed:
            raise RuntimeError("\n".join(failed))
        return {variant: self._costs(step, variant) for variant in variants}

    def _command(self, step: str, variant: str) -> list[str]:
        what = self.steps[step]
        named = [str(self.out(each)) if each in self.steps else each for each in what.arguments]
        command = [sys.executable, "-m", what.module, *named, "--out", str(self.out(step, variant))]
        return [*command, "--params", str(self._params(variant)), "--stage", f"{step}@{variant}", "--debug"]

    def _params(self, variant: str) -> Path:
        return self.folder / f"params-{variant}.yaml"

    def _costs(self, step: str, variant: str) -> dict[str, Any]:
        path = self.folder / f".juicer/costs/{step}@{variant}.json"
        costs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kept = ("seconds", "peak_device_memory_mb", "training_tokens_per_second", "mfu")
        return {name: costs[name] for name in kept if name in costs}


def _environment() -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), SHARED: "1"}
