"""Which files of a model's repository are fetched."""

import pytest

from juicer.runtime.errors import InputError
from tasks.download import wanted


def test_safetensors_configuration_and_tokenizer_are_fetched_and_nothing_pickled() -> None:
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "optimizer.pt", "a/config.json"]
    assert wanted(names, "some/model") == ["config.json", "model.safetensors", "tokenizer.json"]


def test_of_a_model_in_shards_the_index_and_its_shards_are_fetched() -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = ["config.json", *shards, "model.safetensors.index.json", "model.fp16.safetensors", "tokenizer.model"]
    expected = ["config.json", *shards, "model.safetensors.index.json", "tokenizer.model"]
    assert wanted(names, "some/model") == expected


def test_a_repository_without_safetensors_is_refused() -> None:
    with pytest.raises(InputError, match="some/model: the repository contains no safetensors"):
        wanted(["config.json", "pytorch_model.bin"], "some/model")
