"""Settings of the base model, and of the registry that its rounds are recorded in."""

from pydantic import Field

from juicer.settings.base import Settings


class PolicySettings(Settings):
    """The base model, which the recipe aligns."""

    model: str
    """Folder or Hugging Face id of the base model."""
    revision: str | None = None
    """Commit of the base model, 40 hex digits; required for a Hugging Face id."""


class RegisterSettings(Settings):
    """Where MLflow records runs and models."""

    model_name: str | None = None
    """Name of the registered model; null uses the recipe's name."""
    tracking_uri: str = "sqlite:///mlflow.db"
    """URI of MLflow's store; the environment variable MLFLOW_TRACKING_URI overrides it."""
    experiment: str | None = Field(None, min_length=1)
    """Name of the MLflow experiment; null uses the recipe's name."""
