"""Which model a recipe aligns, and where its rounds are registered."""

from pydantic import Field

from juicer.settings.base import Settings


class PolicySettings(Settings):
    """The base model."""

    model: str
    """Folder or Hugging Face id of the base model."""
    revision: str | None = None
    """Commit; required for a Hugging Face id."""


class RegisterSettings(Settings):
    """Where runs and models are recorded."""

    model_name: str | None = None
    """Name of the registered model; null takes the recipe's name."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """MLflow's store. MLFLOW_TRACKING_URI in the environment overrides it."""
    experiment: str | None = Field(None, min_length=1)
    """MLflow experiment; null takes the recipe's name."""
