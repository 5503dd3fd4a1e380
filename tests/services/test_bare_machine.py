"""A Python that lacks what a borrowed machine with a GPU lacks, and the kit that makes our code run there."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench.gpu_kit import BARE, WHEELS, Wheel, canonicalize_name
from bench.gpu_source import fingerprint
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

ABSENT = ("pydantic", "pydantic_core", "ruamel", "trl", "datasets", "dill", "multiprocess", "gguf", "mlflow",
          "prefect", "dvc", "deepspeed", "lm_eval", "juicer")  # fmt: skip


def run(python: Path, code: str, path: str = "", expect: int = 0) -> str:
    """What the code prints there, or its last line on standard error where it is to fail."""
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(python), "-c", code], cwd=python.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stderr
    return done.stderr.strip().splitlines()[-1] if expect else done.stdout


@pytest.fixture(scope="module")
def carried(bare_python: Path, gpu_kit: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH with the kit's wheels, installed beside the stand-in without a network, and the code."""
    site = tmp_path_factory.mktemp("site")
    wheels = map(str, (gpu_kit / "wheels").glob("*.whl"))
    command = [str(bare_python), "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*command, *wheels], check=True)
    return f"{site}{os.pathsep}{ROOT}"


def test_the_stand_in_lacks_what_the_machine_lacks(bare_python: Path):
    code = f"from importlib.util import find_spec; print(*filter(find_spec, {ABSENT}))"
    assert run(bare_python, code).split() == []
    assert run(bare_python, "import pydantic", expect=1) == "ModuleNotFoundError: No module named 'pydantic'"


def test_the_stand_in_has_no_distribution_that_the_machine_does_not_have(bare_python: Path):
    code = "from importlib.metadata import distributions; print(*(each.name for each in distributions()))"
    names = {canonicalize_name(name) for name in run(bare_python, code).split()}
    assert names <= BARE
    assert names >= {"pip", "torch", "transformers", "accelerate", "peft", "pandas", "pyarrow", "tokenizers", "numpy"}


def test_its_transformers_is_the_machine_s_and_works_with_this_torch(bare_python: Path):
    code = """
import accelerate, peft, torch, transformers
config = transformers.LlamaConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32
)
logits = transformers.AutoModelForCausalLM.from_config(config)(torch.ones(1, 3, dtype=torch.long)).logits
print(transformers.__version__, tuple(logits.shape))
"""
    assert run(bare_python, code) == "5.17.0 (1, 3, 32)\n"


def test_the_kit_has_one_wheel_of_each_package_that_is_missing_there(gpu_kit: Path):
    names = [Wheel.read(path).name for path in (gpu_kit / "wheels").iterdir()]
    assert sorted(names) == sorted(canonicalize_name(name) for name in WHEELS)


def test_the_kit_says_which_code_it_was_collected_with(gpu_kit: Path):
    about = json.loads((gpu_kit / "source.json").read_text())
    assert about["code"] == fingerprint(ROOT)
    assert isinstance(about["clean"], bool)


def test_with_the_kit_the_code_that_trains_and_samples_can_be_imported_there(bare_python: Path, carried: str):
    code = """
import juicer.methods.irft, juicer.methods.reward, juicer.methods.sft, juicer.sampling.decoding
import juicer.models.loading, juicer.scorers.beaver, juicer.stages.stage, trl, datasets, gguf
from juicer.settings.irft import IrftTrainingSettings
from trl import RLOOTrainer, SFTTrainer
import pydantic, transformers
print(transformers.__version__, pydantic.VERSION, IrftTrainingSettings.__name__)
"""
    version, *_ = run(bare_python, code, carried).split()
    assert version == "5.17.0"
