"""Stage download: a model of the Hugging Face hub at a pinned commit: safetensors, configuration and tokenizer.

Pickled weights are never fetched: loading one can run code.
"""

import argparse
import logging
import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from juicer.runtime.errors import InputError
from juicer.stages.stage import Stage, main

COMMIT = re.compile(r"[0-9a-f]{40}")
BESIDE_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
    "LICENSE*",
    "README.md",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="Hugging Face id, for example EleutherAI/pythia-1b")
    parser.add_argument("--revision", required=True, help="commit, 40 hex digits")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")


def run(stage: Stage) -> str:
    from huggingface_hub import HfApi, snapshot_download

    model, revision = stage.arguments.model, stage.arguments.revision
    if not COMMIT.fullmatch(revision):
        what = f"revision {revision!r} can move, so it pins nothing"
        raise InputError(what, where=model, do="give the commit, 40 hex digits")
    with stage.publish(stage.arguments.out) as out:
        try:
            logging.getLogger("huggingface_hub").setLevel(
                logging.ERROR
            )  # it tells of every retry; we tell once how it ended
            names = wanted(HfApi().list_repo_files(model, revision=revision), model)
            snapshot_download(model, revision=revision, local_dir=out, allow_patterns=names)
        except (InputError, OSError) as error:
            # Everything that the hub's client raises about ids, revisions and access is an OSError too.
            if isinstance(error, InputError) or error.errno is not None:
                raise
            raise _unreachable(model, error) from error
        except Exception as error:
            raise _unreachable(model, error) from error
        shutil.rmtree(out / ".cache", ignore_errors=True)  # the client's notes, with times in them
    return f"{len(names)} files of {model} at {revision[:12]}"


def wanted(names: Sequence[str], model: str) -> list[str]:
    """Of a repository's files, those that a model is loaded from.

    Raises:
        InputError: it has no safetensors.
    """
    weights = [name for name in names if fnmatch(name, "model*.safetensors")]
    if not weights:
        what = "the repository has no safetensors; pickled weights are not loaded"
        raise InputError(what, where=model, do="take a revision with safetensors, or convert it and give the folder")
    if "model.safetensors.index.json" in names:
        weights = [name for name in weights if "-of-" in name] + ["model.safetensors.index.json"]
    beside = [name for name in names if "/" not in name and any(fnmatch(name, kind) for kind in BESIDE_WEIGHTS)]
    return sorted({*weights, *beside})


def _unreachable(model: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    do = "check the id and the commit, and that this machine reaches the hub"
    return InputError(f"cannot download: {reason}", where=model, do=do)


if __name__ == "__main__":
    main(run, arguments, __doc__)
