"""Settings of where training curves go beside MLflow."""

from typing import Literal

from pydantic import Field

from juicer.settings.base import Settings

Tracker = Literal["tensorboard", "wandb"]


class TrackingSettings(Settings):
    """Trackers beside MLflow. They change no result and no entry of dvc.lock: switching one on runs nothing again."""

    report_to: list[Tracker] = Field(default_factory=list)
    """As in the trainers' own `report_to`: `tensorboard` writes to .juicer/tensorboard; `wandb` needs WANDB_API_KEY in
    the environment, or WANDB_MODE=offline. Neither is installed with Juicer."""
