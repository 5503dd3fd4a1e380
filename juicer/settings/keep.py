"""Settings of what is kept of the inputs that are on this machine only."""

from pydantic import Field

from juicer.settings.base import Settings


class KeepSettings(Settings):
    """Which local inputs (folders of models, files of data) are copied into DVC, so that a version can be restored."""

    up_to_gb: float = Field(4.0, ge=0)
    """Largest input that is kept, in gigabytes (10^9 bytes); a larger one is only hashed, and `juicer use` says so. 0
    keeps none. Decided when the recipe is made active."""
