"""The record of a training stage: counts and curves, saved beside the weights and versioned with them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingRecord:
    """What a training stage did. It holds no timings, because it is versioned with the weights."""

    stage: str
    steps: int = 0
    """Optimiser steps of this stage."""
    response_tokens: int = 0
    """Response tokens that this stage trained on, repetitions included."""
    total_steps: int = 0
    """Steps since the SFT policy, earlier rounds included."""
    total_response_tokens: int = 0
    """Response tokens since the SFT policy, earlier rounds included."""
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Per quantity: `step` and `value`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Single values: K, accuracy, the normaliser."""

    def log(self, step: int, **values: float) -> None:
        """Add one point to each named curve."""
        for name, value in values.items():
            curve = self.curves.setdefault(name, {"step": [], "value": []})
            curve["step"].append(step)
            curve["value"].append(float(f"{value:.6g}"))

    def continue_from(self, previous: dict[str, Any] | None) -> None:
        """Set the totals: those of the previous round's record plus this stage."""
        before = previous or {}
        self.total_steps = before.get("total_steps", 0) + self.steps
        self.total_response_tokens = before.get("total_response_tokens", 0) + self.response_tokens
