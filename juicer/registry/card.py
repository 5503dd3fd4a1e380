"""The model card: data, method, rounds, figures, lineage, licences. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

METHODS = {
    "base": "none: the model that training started from",
    "sft": "supervised fine-tuning on the demonstrations",
    "sft-matched": "supervised fine-tuning, continued for as many steps and tokens as the reward-learning methods used",
    "irft": "IRFT, implicit reward learning by self-play (Algorithm 2 of arXiv 2405.17888)",
    "rft": "RFT, explicit reward learning and policy optimisation (Algorithm 1 of arXiv 2405.17888)",
}


def model_card(
    name: str,
    number: str | None,
    tags: Mapping[str, str],
    figures: Mapping[str, float],
    recipe: Mapping[str, Any],
    lineage: Sequence[tuple[str, Mapping[str, str]]],
    gates: str,
) -> str:
    """Markdown with a YAML header, in the hub's format.

    Args:
        name: the registered model's name, or the recipe's.
        number: of the version; None for a model that is not registered.
        tags: tags of the version.
        figures: its metrics on held-out prompts.
        recipe: the params.yaml that the version was made with.
        lineage: version number and tags of each version that it was trained from, the nearest first.
        gates: the table of the gates that it passed, or what stands in its place.
    """
    fetch, policy, scorer = recipe["fetch"], recipe["policy"], recipe.get("scorer") or {}
    measured = "\n".join(f"| {key} | {value:.6g} |" for key, value in sorted(figures.items()))
    before = "\n".join(
        f"| {each} | {their.get('model')} | `{their.get('dvc_md5')}` | {_commit(their)} |"
        for each, their in [(number or "not registered", tags), *lineage]
    )
    restored = f"`juicer restore models:/{name}/{number}` brings back weights, data and code.\n\n" if number else ""
    judge = recipe.get("judge") or {}
    scored_by, judged_by = (
        f"`{slot['model']}` ({slot.get('kind')})" if slot.get("model") else "none" for slot in (scorer, judge)
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
license: other
tags: [{tags.get("method")}, reward-learning]
---

# {name}{f" {number}" if number else ""}: {tags.get("model")}

{recipe.get("description") or ""}

## Method

{METHODS.get(tags.get("method", ""), tags.get("method"))}; round {tags.get("round")}, seed {tags.get("seed")}.
Base model: `{policy["model"]}`{_at(policy)}.

## Data

Demonstrations: {_sources(fetch["source"])}{_at(fetch)}. Curated data: md5 `{tags.get("dataset_md5")}`.
The scorer that ranked them: {scored_by}. The judge of the responses, apart from the scorer: {judged_by}.

## Figures

On held-out prompts. `*_sem` is a standard error.

| metric | value |
|---|---|
{measured}

## Gates

{gates}

## Lineage

| version | model | md5 of the weights | commit |
|---|---|---|---|
{before}

{restored}## Licences

- Demonstrations: {fetch.get("licence") or "not stated"}.
- Base model `{policy["model"]}` and scorer {scored_by}: their own licences apply.
"""


def _sources(source: Any) -> str:
    given = source if isinstance(source, list) else [source]
    return ", ".join(f"`{each['path'] if isinstance(each, dict) else each}`" for each in given)


def _commit(tags: Mapping[str, str]) -> str:
    uncommitted = " with uncommitted changes" if tags.get("git_dirty") == "true" else ""
    return f"`{tags.get('git_commit')}`{uncommitted}"


def _at(settings: Mapping[str, Any]) -> str:
    return f" at revision `{settings['revision']}`" if settings.get("revision") else ""
