"""The digest of a policy's weights: what it is the hash of, and that other weights are refused in one line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from juicer.models.digest import check_digest, weights_digest
from juicer.models.published import PUBLISHED
from juicer.recipe.activation import load
from juicer.runtime.errors import InputError
from juicer.settings.models import PolicySettings
from tests.stub_models import write_stub

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes/quickstart.yaml"
OTHER, SMOLLM2 = "0" * 64, PUBLISHED["smollm2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(*overrides: str, pinned: bool = True, tiny: bool = False) -> Any:
    return load(QUICKSTART, list(overrides), pinned=pinned, tiny=tiny)[0]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_of_one_file_it_is_the_sha256_of_the_file() -> None:
    folder = write_stub(Path("model"))
    assert weights_digest(folder) == sha256((folder / "model.safetensors").read_bytes())


def test_of_several_files_it_is_the_sha256_of_what_sha256sum_prints() -> None:
    folder = write_stub(Path("model"))
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{number}-of-00002.safetensors": bytes([number]) for number in (2, 1)}
    for name, content in shards.items():
        (folder / name).write_bytes(content)
    lines = "".join(f"{sha256(shards[name])}  {name}\n" for name in sorted(shards))
    assert weights_digest(folder) == sha256(lines.encode())
    # An index says which files are the weights.
    (folder / "consolidated.safetensors").touch()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {each: each for each in shards}}))
    assert weights_digest(folder) == sha256(lines.encode())


def test_a_recipe_with_the_digest_of_its_policy_is_accepted_and_with_another_refused_in_one_line() -> None:
    folder = write_stub(Path("model"))
    digest = weights_digest(folder)
    assert read("policy.model=model", f"policy.digest={digest}").policy.digest == digest
    for pinned in (True, False):
        with pytest.raises(InputError) as error:
            read("policy.model=model", f"policy.digest='{OTHER}'", pinned=pinned)
        assert str(error.value) == (
            f"model: the digest of the weights is {digest}, but policy.digest is {OTHER} "
            "(fetch the model again; or change policy.digest if you mean this model)"
        )


def test_a_plan_needs_no_weights_and_then_checks_none() -> None:
    (write_stub(Path("model")) / "model.safetensors").unlink()
    assert read("policy.model=model", f"policy.digest='{OTHER}'", pinned=False).policy.digest == OTHER


def test_other_weights_than_those_of_a_published_model_are_refused_with_the_command_that_fetches_it() -> None:
    folder = write_stub(Path("model"))
    with pytest.raises(InputError, match=r"\(remove it and fetch it again: juicer fetch-model smollm2 --out model; or"):
        check_digest(folder, SMOLLM2.digest)
    check_digest(folder, None)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_missing_folder_of_a_published_model_is_one_line_with_the_command_that_makes_it(pinned: bool) -> None:
    with pytest.raises(InputError) as error:
        read(f"policy.model={SMOLLM2.folder}", f"policy.digest={SMOLLM2.digest}", pinned=pinned)
    assert str(error.value) == (
        f"{QUICKSTART}: policy.model: no such folder: models/SmolLM2-135M-Instruct "
        "(SmolLM2-135M-Instruct has this digest; fetch it: juicer fetch-model smollm2)"
    )


def test_a_plan_of_a_published_model_whose_config_is_kept_with_the_recipes_needs_no_folder() -> None:
    kept = Path("recipes/models/SmolLM2-135M-Instruct.json")
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    given = (f"policy.model={SMOLLM2.folder}", f"policy.digest={SMOLLM2.digest}")
    assert read(*given, pinned=False).policy.digest == SMOLLM2.digest
    with pytest.raises(InputError, match="no such folder"):
        read(*given)


def test_the_random_model_of_a_tiny_recipe_needs_no_digest() -> None:
    write_stub(Path("model"))
    given = ("policy.model=model", "scorer.kind=none")
    assert read(*given, tiny=True).policy.digest is None
    with pytest.raises(InputError, match=r"policy.digest is that of a real model, .* \(set policy.digest to null\)"):
        read(*given, f"policy.digest='{OTHER}'", tiny=True)
    with pytest.raises(InputError, match=r"policy\.digest is that of a real model"):
        read(f"policy.digest='{OTHER}'")


@pytest.mark.parametrize("digest", ["abc", "A" * 64, "g" * 64, "0" * 65, ""])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(InputError, match=r"^recipe: parameter 'digest': .* is not a SHA-256: 64 hex digits, in lower"):
        PolicySettings.parse({"model": "model", "digest": digest}, "recipe")
