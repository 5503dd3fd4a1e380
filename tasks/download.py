"""Stage download: fetch a model from the Hugging Face hub at a pinned commit: safetensors, configuration, tokenizer.

Pickled weights are never downloaded, because loading them can run code.
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

    from juicer.methods.probe import probe_folder

    model, revision = stage.arguments.model, stage.arguments.revision
    if not COMMIT.fullmatch(revision):
        what = f"revision {revision!r} is not a commit, so it can move"
        raise InputError(what, where=model, do="use the commit, 40 hex digits")
    with stage.publish(stage.arguments.out) as out:
        try:
            # The library logs every retry; the error below reports the outcome once.
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
            names = wanted(HfApi().list_repo_files(model, revision=revision), model)
            snapshot_download(model, revision=revision, local_dir=out, allow_patterns=names)
        except (InputError, OSError) as error:
            # The hub's client raises an OSError without errno for wrong ids and revisions and for denied access.
            if isinstance(error, InputError) or error.errno is not None:
                raise
            raise _unreachable(model, error) from error
        except Exception as error:
            raise _unreachable(model, error) from error
        shutil.rmtree(out / ".cache", ignore_errors=True)  # the client's metadata, which contains timestamps
        probe_folder(out, model)
    return f"{len(names)} files of {model} at {revision[:12]}"


def wanted(names: Sequence[str], model: str) -> list[str]:
    """The files of a repository that a model is loaded from.

    Raises:
        InputError: the repository contains no safetensors.
    """
    weights = [name for name in names if fnmatch(name, "model*.safetensors")]
    if not weights:
        what = "the repository contains no safetensors, and pickled weights are not loaded"
        raise InputError(
            what, where=model, do="use a revision with safetensors, or convert the model and name its folder"
        )
    if "model.safetensors.index.json" in names:
        weights = [name for name in weights if "-of-" in name] + ["model.safetensors.index.json"]
    beside = [name for name in names if "/" not in name and any(fnmatch(name, kind) for kind in BESIDE_WEIGHTS)]
    return sorted({*weights, *beside})


def _unreachable(model: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    do = "check the id and the commit, and that this machine can reach the hub"
    return InputError(f"cannot download: {reason}", where=model, do=do)


if __name__ == "__main__":
    main(run, arguments, __doc__)
