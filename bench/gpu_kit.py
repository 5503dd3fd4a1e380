"""Collect what bench/gpu.py needs on a borrowed machine with a GPU, where nothing can be installed from a network.

    python -m bench.gpu_kit                  # wheels, real rows and what code this is, into .gpu-kit: make gpu-kit
    python -m bench.gpu_kit --model          # and a small real model, in pieces: make gpu-kit KIT=--model

wheels/ holds what such a machine lacks, in the versions of constraints.txt; source.json says which code is carried;
data/ holds Anthropic-HH rows; model-1/ and model-2/ are pieces of a GGUF file that can travel one after another.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.gpu_source import source, split
from juicer.models.published import PUBLISHED
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data/hh-harmless"
FILES = ("train.jsonl.gz", "test.jsonl.gz")
MIB = 1 << 20
PIECE = 47 * MIB
"""Two pieces of the model, each of which can travel with the rest of the kit and the code in 64 MiB."""
SMALL = 20 * MIB
WHEELS = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "ruamel.yaml", "trl",
    "datasets", "dill", "multiprocess", "liger-kernel", "gguf", "orjson", "peft",
)  # fmt: skip
"""What such a machine lacks, or may have too old a version of (peft, typing-extensions)."""
PINS = {"liger-kernel": "0.8.5"}
"""Versions of what the project itself does not install; the others' are those of constraints.txt."""
SMOLLM2 = PUBLISHED["smollm2"]
MODEL, MODEL_VERSION, MODEL_LICENCE = SMOLLM2.package, SMOLLM2.version, SMOLLM2.licence
"""The package that holds SmolLM2-135M-Instruct as a GGUF file (93 MiB)."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
# Read off such a machine in 2026-11: what our packages need, directly or not, and what they use where it is there.
_NAMES = """
    absl-py accelerate aiohappyeyeballs aiohttp aiosignal annotated-doc anyio attrs certifi charset-normalizer click
    cloudpickle colorama contourpy cycler einops filelock fonttools frozenlist fsspec h11 hf-xet httpcore httpx
    huggingface-hub humanize idna iniconfig jinja2 joblib kiwisolver lxml markdown markdown-it-py markupsafe matplotlib
    mdurl mpmath msgpack multidict mypy-extensions narwhals networkx ninja numpy packaging pandas pathspec peft pillow
    pip pluggy portalocker prometheus-client propcache protobuf psutil py-cpuinfo pyarrow pygments pyparsing pytest
    python-dateutil pyyaml regex requests rich sacrebleu safetensors scikit-learn scipy sentencepiece setuptools
    shellingham six sympy tabulate threadpoolctl tokenizers torch tqdm transformers triton typer typing-extensions
    urllib3 werkzeug xxhash yarl zipp
"""
BARE = frozenset(_NAMES.split())
"""Distributions that such a machine has."""


@dataclass(frozen=True)
class Wheel:
    """What the metadata of a wheel says."""

    name: str
    version: str
    requires: list[Requirement]

    @classmethod
    def read(cls, path: Path) -> "Wheel":
        with zipfile.ZipFile(path) as file:
            inside = next(name for name in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            header = HeaderParser().parsestr(file.read(inside).decode("utf-8"))
        requires = [Requirement(line) for line in header.get_all("Requires-Dist", [])]
        return cls(canonicalize_name(str(header["Name"])), str(header["Version"]), requires)


def pinned(path: Path) -> dict[str, str]:
    """The versions that a file of constraints pins for every Python, by canonical name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"([\w.-]+)==([\w.+!]+)", line.strip()) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def unmet(wheels: Iterable[Wheel], there: dict[str, str | None], python: str) -> list[str]:
    """What the wheels need, extras aside, that neither they nor the machine have in a fitting version.

    Args:
        wheels: of the kit.
        there: canonical names of what the machine has, and the versions that are known.
        python: version of the machine's Python, such as 3.12.
    """
    wheels = list(wheels)
    has = there | {wheel.name: wheel.version for wheel in wheels}
    marks = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    lines = []
    for wheel in wheels:
        for need in wheel.requires:
            if need.marker and not need.marker.evaluate(marks):
                continue
            name = canonicalize_name(need.name)
            needs = f"{wheel.name} {wheel.version} needs {need.name}{need.specifier}"
            if name not in has:
                lines.append(f"{needs}, which is neither in the kit nor on the machine")
            elif (version := has[name]) and not need.specifier.contains(version, prereleases=True):
                lines.append(f"{needs}, and there is {version}")
    return lines


def download(packages: Iterable[str], folder: Path, python: str) -> list[Path]:
    """Download wheels of exactly these packages, not of what they need, for Linux on x86-64.

    Args:
        packages: such as `trl==1.16.0`.
        folder: where to put them.
        python: version that they are for, such as 3.12.

    Raises:
        InputError: pip failed; with what it said last.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "-d", str(folder)]
    command += [part for platform in PLATFORMS for part in ("--platform", f"{platform}_x86_64")]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        # The last line is the consequence ("No matching distribution found"), and names the package.
        said = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise InputError(
            said, where="pip download", do="a kit is collected where pip reaches a package index; look at the network"
        )
    return sorted(folder.glob("*.whl"))


def collect_wheels(folder: Path, python: str, root: Path = ROOT) -> list[Wheel]:
    """Download the wheels that a borrowed machine lacks and check that nothing else is missing there.

    Raises:
        InputError: a version is pinned nowhere, pip failed, or a requirement is met by nothing.
    """
    pins = pinned(root / "constraints.txt") | PINS
    names = [canonicalize_name(name) for name in WHEELS]
    if unknown := [name for name in names if name not in pins]:
        raise InputError(f"no version of {', '.join(unknown)}", where="constraints.txt", do="pin it there")
    paths = download([f"{name}=={pins[name]}" for name in names], folder, python)
    wheels = [Wheel.read(path) for path in paths]
    known = pinned(root / "constraints-bare.txt")
    if lines := unmet(wheels, {name: known.get(name) for name in BARE}, python):
        raise InputError("; ".join(lines), do="add it to WHEELS in bench/gpu_kit.py, or to BARE if the machine has it")
    return wheels


def collect_model(kit: Path) -> list[Path]:
    """Download the small model and cut it into pieces; returns their folders."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (wheel,) = download([f"{MODEL}=={MODEL_VERSION}"], folder, "3.12")
        with zipfile.ZipFile(wheel) as file:
            (inside,) = (name for name in file.namelist() if name.endswith(".gguf"))
            whole = folder / Path(inside).name
            with file.open(inside) as content, whole.open("wb") as written:
                shutil.copyfileobj(content, written, MIB)
        return split(whole, kit, PIECE, MODEL_LICENCE)


def copy_data(data: Path | None, folder: Path) -> str:
    """Copy the real rows; returns a line that says what was done.

    Raises:
        InputError: the folder that was asked for does not hold them.
    """
    place = data or DATA
    if absent := [name for name in FILES if not (place / name).is_file()]:
        if data is None:
            return f"none: {' and '.join(absent)} not found in the folder beside the repository (--data names another)"
        raise InputError(f"no {' and no '.join(absent)}", where=str(data), do="name a folder of Anthropic-HH rows")
    folder.mkdir()
    for name in FILES:
        shutil.copyfile(place / name, folder / name)
    return f"{' and '.join(FILES)}, {size(folder) / MIB:.1f} MiB"


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def collect(out: Path, python: str, model: bool, data: Path | None, say: Callable[[str], None]) -> None:
    """Make the kit beside `out`, then let it take the place of the one that is there.

    Raises:
        InputError: something cannot be had, or `out` holds something else than a kit.
    """
    if out.exists() and not (out / "source.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("this is not a kit, and would be replaced", where=str(out), do="name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}-", dir=out.parent) as temporary:
        kit = Path(temporary) / "kit"
        kit.mkdir()
        say(f"wheels: for Python {python} ...")
        wheels = collect_wheels(kit / "wheels", python)
        listed = ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheels)
        say(f"wheels: {len(wheels)} ({listed}), {size(kit / 'wheels') / MIB:.1f} MiB")
        say(f"data: {copy_data(data, kit / 'data')}")
        about = source(ROOT)
        (kit / "source.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        state = "no changes" if about["clean"] else "with changes that no commit has"
        say(f"source: commit {about['commit'] or 'unknown'}, {state}, code {str(about['code'])[:12]}")
        small = size(kit)
        if model:
            say(f"model: {MODEL} {MODEL_VERSION} ...")
            folders = collect_model(kit)
            say(f"model: {', '.join(f'{folder.name}/ {size(folder) / MIB:.1f} MiB' for folder in folders)}")
        if out.exists():
            out.rename(Path(temporary) / "old")
        kit.rename(out)
    say(f"{out}: {size(out) / MIB:.1f} MiB" + (f", {small / MIB:.1f} MiB without the model" if model else ""))
    if small > SMALL:
        say(f"warning: {small / MIB:.0f} MiB without the model is more than the {SMALL // MIB} MiB that leave it room")


def version(text: str) -> str:
    """A version of Python, as `--python` takes it."""
    if not re.fullmatch(r"3\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 3.12")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu-kit")
    parser.add_argument("--python", type=version, default="3.12", help="of the borrowed machine")
    parser.add_argument("--model", action="store_true", help="collect the small real model too (93 MiB)")
    parser.add_argument("--data", type=Path, help="folder with " + " and ".join(FILES))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        collect(given.out, given.python, given.model, given.data, lambda line: print(line, flush=True))

    sys.exit(guarded(work, debug=given.debug, name="gpu_kit"))


if __name__ == "__main__":
    main()
