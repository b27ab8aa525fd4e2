"""Whether a new model is better than the one before it: paired, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BETTER, SAME, WORSE, UNKNOWN = "better", "no different", "worse", "unknown"

MIN_CASES = 4
"""Fewer cases agree by luck too often, whatever their spread says."""

_SMALLEST_DEVIATION = 0.005
"""Of the gains in Dice: what a second training with another seed changes. Cases that happen to agree better than that
are no proof."""

# 97.5 % quantiles of Student's distribution for 1, 2, ... degrees of freedom.
# fmt: off
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on


@dataclass(frozen=True)
class Improvement:
    """The gain in Dice from one model to another over the same cases."""

    verdict: str
    """`BETTER`, `SAME`, `WORSE`, or `UNKNOWN` where there are too few cases to tell."""
    mean_gain: float
    low: float
    """Of the 95 % confidence interval of the mean gain, Student's for paired values."""
    high: float
    n_cases: int
    sentence: str
    """The same for a person."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; an interval without bounds has None."""
        return {key: None if value in (math.inf, -math.inf) else value for key, value in asdict(self).items()}


def judge(before: Sequence[float], after: Sequence[float]) -> Improvement:
    """Compares two models by their Dice coefficients.

    "Better" and "worse" need at least `MIN_CASES` cases and a 95 % interval of the mean gain that leaves out 0.

    Args:
        before, after: Dice of each case, 0 to 1, in the same order; at least one.
    """
    gains = np.subtract(after, before)
    n_cases, mean = len(gains), float(np.mean(gains))
    change = f"Mean Dice {np.mean(before):.3f} before, {np.mean(after):.3f} after"
    if n_cases < MIN_CASES:
        sentence = (
            f"Too few cases to tell. {change}, on {n_cases}. "
            f"It takes at least {MIN_CASES} to learn whether the model is better."
        )
        return Improvement(UNKNOWN, mean, -math.inf, math.inf, n_cases, sentence)
    margin = _student(n_cases - 1) * max(float(np.std(gains, ddof=1)), _SMALLEST_DEVIATION) / math.sqrt(n_cases)
    low, high = mean - margin, mean + margin
    verdict = BETTER if low > 0 else WORSE if high < 0 else SAME
    first = {BETTER: "The new model is better", WORSE: "The new model is worse", SAME: "No different"}[verdict]
    # Without the mean gain: rounded by itself, it need not be the difference between the two that are told.
    interval = f"95 % interval of the gain: {_signed(low)} to {_signed(high)}"
    sentence = f"{first}. {change}, on {n_cases} cases ({interval})."
    return Improvement(verdict, mean, low, high, n_cases, sentence)


def _signed(value: float) -> str:
    # Not -0.000.
    return f"{round(value, 3) + 0.0:+.3f}"


def _student(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution."""
    if degrees_of_freedom <= len(_STUDENT):
        return _STUDENT[degrees_of_freedom - 1]
    # Its expansion about the normal distribution's (Abramowitz and Stegun, 26.7.5), here right to 0.0002.
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees_of_freedom + second / degrees_of_freedom**2
