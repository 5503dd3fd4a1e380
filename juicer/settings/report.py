"""Settings of the report."""

from pydantic import Field

from juicer.settings.base import Settings


class MattersSettings(Settings):
    """Differences that are worth knowing of. Where a run could not have shown them, the report says "cannot tell"."""

    score: float = Field(0.2, gt=0, le=10)
    """In mean score, in standard deviations of the control's scores; 0.2 is what statistics calls a small effect."""
    share: float = Field(0.05, gt=0, le=1)
    """In preference accuracy, which is compared where the recipe has no scorer."""


class ReportSettings(Settings):
    """What the report concludes."""

    matters: MattersSettings = MattersSettings()
