"""How far a training comes in the user's time: all its runs count."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture
def estimate(desktop):
    """Function that says what follows from an iteration of half a second, and 100 of them in a run."""
    ui = desktop.open_module(enter=False).ui
    from VNetSegmentationLib.trainingEstimate import TrainingEstimate

    def show(nRuns: int, minutes: int, iterations: int = 0) -> str:
        plan = SimpleNamespace(n_runs=nRuns, judged=["a"])
        cases = SimpleNamespace(problem=lambda: None, plan=lambda hasBase: plan, chosenValidation=None, used=["a", "b"])
        worker = SimpleNamespace(isInstalling=False, choice=SimpleNamespace(device="cpu"))
        jobs = SimpleNamespace(submit=lambda job: job.onResult({"iteration_s": 0.5, "iterations": 100}))
        ui.trainingMinutesSpinBox.value, ui.trainingIterationsSpinBox.value = minutes, iterations
        TrainingEstimate(ui, jobs, worker, cases, lambda: {"base": "tiny"}).update(False)
        return ui.trainingEstimateLabel.text

    return show


def test_what_there_is_time_for_takes_as_long_as_all_runs(estimate):
    # 4 x 100 x 0.5 s = 200 s.
    assert "4 x 100 iterations take about 3 min here (0.50 s each)" in estimate(4, minutes=10)
    # 240 iterations, which the user asked for, are 480 s.
    assert "4 x 240 iterations take about 8 min here" in estimate(4, minutes=10, iterations=240)
    assert "Each case is judged" in estimate(4, minutes=10)
    assert "1 of 2 cases only judge" in estimate(1, minutes=10)


def test_too_short_a_time_is_shared_by_all_runs(estimate):
    # A minute has 120 iterations of half a second, 30 for each run.
    text = estimate(4, minutes=1)
    assert "1 min are enough for 4 x 30 iterations here" in text
    assert "all would take 3 min" in text
