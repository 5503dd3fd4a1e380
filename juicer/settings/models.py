"""Settings of the base model, and of the registry that its rounds are recorded in."""

from juicer.settings.base import Settings
from juicer.settings.text import Commit, Digest, Place, RegisteredName, Store, Word


class PolicySettings(Settings):
    """The base model, which the recipe aligns."""

    model: Place
    """Folder or Hugging Face id of the base model."""
    revision: Commit | None = None
    """Commit of the base model, 40 hex digits; required for a Hugging Face id."""
    digest: Digest | None = None
    """SHA-256 of the weights, 64 hex digits (docs/configuration.md); other weights are refused. null takes any."""


class RegisterSettings(Settings):
    """Where MLflow records runs and models."""

    model_name: RegisteredName | None = None
    """Name of the registered model; null uses the recipe's name."""
    tracking_uri: Store = "sqlite:///mlflow.db"
    """URI of MLflow's store; the environment variable MLFLOW_TRACKING_URI overrides it."""
    experiment: Word | None = None
    """Name of the MLflow experiment; null uses the recipe's name."""
