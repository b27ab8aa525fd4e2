"""Better, no different or worse: only where the cases bear it out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from vnet_segmentation.evaluation.improvement import BETTER, SAME, UNKNOWN, WORSE, judge

BEFORE = [0.80, 0.82, 0.84, 0.86, 0.88, 0.81]


def after(*gains: float) -> list[float]:
    return [dice + gain for dice, gain in zip(BEFORE, gains, strict=False)]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        # mean 0.035, deviation 0.01871, 2.571 * 0.01871 / sqrt(6) = 0.0196: 0.0154 to 0.0546
        ((0.01, 0.02, 0.03, 0.04, 0.05, 0.06), BETTER),
        ((-0.01, -0.02, -0.03, -0.04, -0.05, -0.06), WORSE),
        # mean 0.01, deviation 0.0490: one large gain is no progress
        ((0.11, -0.01, -0.01, -0.01, -0.01, -0.01), SAME),
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), SAME),
        # Three cases that all gained a lot: they may be lucky.
        ((0.05, 0.05, 0.05), UNKNOWN),
        # Equal to the last digit, but a gain within what another seed changes: 3.182 * 0.005 / 2 = 0.008
        ((0.007, 0.007, 0.007, 0.007), SAME),
        ((0.009, 0.009, 0.009, 0.009), BETTER),
    ],
)
def test_verdicts(gains: tuple[float, ...], verdict: str) -> None:
    assert judge(BEFORE[: len(gains)], after(*gains)).verdict == verdict


def test_the_interval_is_students() -> None:
    improvement = judge(BEFORE, after(0.01, 0.02, 0.03, 0.04, 0.05, 0.06))
    assert improvement.mean_gain == pytest.approx(0.035)
    assert (improvement.low, improvement.high) == pytest.approx((0.0154, 0.0546), abs=5e-5)
    assert improvement.sentence == (
        "The new model is better. Mean Dice 0.835 before, 0.870 after, on 6 cases "
        "(95 % interval of the gain: +0.015 to +0.055)."
    )


def test_the_sentence_does_not_disagree_with_itself_by_rounding() -> None:
    # A gain of 0.0002, which the two means show as 0.001.
    improvement = judge([0.9404] * 8, [0.9406] * 8)
    assert "Mean Dice 0.940 before, 0.941 after" in improvement.sentence
    assert "0.000" not in improvement.sentence


@pytest.mark.parametrize(("n_cases", "student"), [(31, 2.042), (41, 2.021), (121, 1.980)])
def test_the_interval_of_many_cases_is_students_too(n_cases: int, student: float) -> None:
    before = np.zeros(n_cases)
    gains = np.linspace(0, 0.1, n_cases)
    improvement = judge(before, gains)
    deviation = gains.std(ddof=1) / math.sqrt(n_cases)
    assert (improvement.high - improvement.low) / 2 / deviation == pytest.approx(student, abs=7e-4)


@pytest.mark.parametrize("n_cases", [4, 8, 40])
def test_models_that_are_alike_are_seldom_called_better(n_cases: int) -> None:
    random = np.random.default_rng(n_cases)
    before = random.uniform(0.7, 0.9, (400, n_cases))
    verdicts = [judge(row, row + random.normal(0, 0.03, n_cases)).verdict for row in before]
    # 2.5 % of each are expected by the interval's definition.
    assert verdicts.count(BETTER) <= 20
    assert verdicts.count(WORSE) <= 20


def test_without_an_interval_json_has_none() -> None:
    improvement = judge([0.8], [0.9])
    assert (improvement.low, improvement.high) == (-math.inf, math.inf)
    assert json.loads(json.dumps(improvement.as_dict(), allow_nan=False))["low"] is None
