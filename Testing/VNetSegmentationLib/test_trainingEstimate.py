"""How far this computer comes in the time that the user gives, as a sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


class Client:
    """Keeps what was submitted."""

    def __init__(self):
        self.jobs = []

    def submit(self, job):
        self.jobs.append(job)


@pytest.fixture
def estimate(desktop):
    """Makes an estimate for 12 usable cases; gives it, its client and the panel's widgets."""
    from VNetSegmentationLib.trainingEstimate import TrainingEstimate

    def make(n_runs: int = 1, n_judges: int = 3):
        ui, client = desktop.open_module(enter=False).ui, Client()
        cases = SimpleNamespace(
            problem=lambda: None,
            plan=lambda hasBase: SimpleNamespace(n_runs=n_runs, judged=["case"] * n_judges),
            chosenValidation=None,
            used=["case"] * 12,
        )
        worker = SimpleNamespace(isInstalling=False, choice=SimpleNamespace(device="cpu"))
        made = TrainingEstimate(ui, client, worker, cases, lambda: {"base": ""})
        ui.trainingMinutesSpinBox.value, ui.trainingIterationsSpinBox.value = 30, 0
        return made, client, ui

    return make


def measured(client) -> None:
    client.jobs[-1].onResult({"iteration_s": 2.0, "iterations": 600})


def test_enough_time_and_too_little(estimate):
    made, client, ui = estimate()
    made.update(False)
    assert "Measuring" in ui.trainingEstimateLabel.text
    measured(client)
    # 600 x 2 s are 20 min.
    assert "1 x 600 iterations take about 20 min here (2.00 s each)." in ui.trainingEstimateLabel.text
    assert "3 of 12 cases only judge the model." in ui.trainingEstimateLabel.text
    ui.trainingMinutesSpinBox.value = 10
    assert "10 min are enough for 1 x 300 iterations here" in ui.trainingEstimateLabel.text
    assert "all would take 20 min." in ui.trainingEstimateLabel.text
    ui.trainingIterationsSpinBox.value = 60
    assert "1 x 60 iterations take about 2 min" in ui.trainingEstimateLabel.text


def test_the_runs_of_a_cross_validation_share_the_time(estimate):
    made, client, ui = estimate(n_runs=4)
    made.update(False)
    measured(client)
    # 4 x 20 min, of which 30 min are 225 iterations each.
    assert "30 min are enough for 4 x 225 iterations" in ui.trainingEstimateLabel.text
    assert "Each case is judged by a model that has not learned from it." in ui.trainingEstimateLabel.text


def test_it_is_measured_once_and_not_while_a_model_is_trained(estimate):
    made, client, _ = estimate()
    made.update(True)
    assert client.jobs == []
    made.update(False)
    made.update(False)
    measured(client)
    made.update(False)
    assert len(client.jobs) == 1


def test_what_cannot_be_measured_is_no_sentence(estimate):
    made, client, ui = estimate()
    made.update(False)
    client.jobs[0].onError("The model is damaged.", 5)
    assert ui.trainingEstimateLabel.text == ""
    # Tried again when something changes.
    made.update(False)
    assert len(client.jobs) == 2
