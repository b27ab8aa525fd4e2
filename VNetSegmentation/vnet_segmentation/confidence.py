"""How sure a result is: how well two looks of the network at the same gland agree."""

from __future__ import annotations

from typing import Any

from torch import Tensor

LEVELS = (("high", 0.93), ("medium", 0.88), ("low", 0.0))
"""Names of the levels, each with the smallest value that has it."""


def agreement(first: Tensor, second: Tensor, threshold: float) -> float:
    """Dice between the masks of two looks, in [0, 1]; 0 where one or both are empty.

    Args:
        first, second: probabilities of the same field, same shape.
    """
    a, b = first >= threshold, second >= threshold
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 0.0


def confidence_report(first: Tensor, second: Tensor, threshold: float) -> dict[str, Any]:
    """The confidence as a report shows it: {"value": in [0, 1], "level": "high", "medium" or "low"}."""
    value = agreement(first, second, threshold)
    level = next(name for name, least in LEVELS if value >= least)
    return {"value": round(value, 3), "level": level}
