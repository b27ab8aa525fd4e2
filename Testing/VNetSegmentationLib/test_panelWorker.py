"""The panel's worker: installed at first use, killed, idle, absent."""

from __future__ import annotations

import os
import signal

import pytest
from desktop.panel_user import wait_for_end


def test_a_worker_that_does_not_obey_is_ended_and_the_next_click_gets_a_new_one(panel, add_scan, desktop):
    panel.segment(add_scan())
    pid = panel.widget.logic.client.pid
    os.kill(pid, signal.SIGSTOP)
    panel.start()
    desktop.click(panel.ui.cancelButton)
    desktop.wait_until(lambda: panel.idle)
    assert "Stopped" in panel.ui.statusLabel.text
    with pytest.raises(ProcessLookupError):
        # Behind the launcher, too, there is nothing left.
        wait_for_end(pid)
    panel.segment()
    assert panel.widget.logic.client.pid not in (None, pid)


def test_a_worker_that_is_killed_is_a_sentence_and_the_next_click_works(panel, add_scan, desktop):
    panel.segment(add_scan())
    panel.start()
    os.kill(panel.widget.logic.client.pid, signal.SIGKILL)
    desktop.wait_until(lambda: panel.idle)
    assert "ended unexpectedly" in panel.ui.statusLabel.text
    panel.segment()
    assert panel.ui.statusLabel.text.startswith("Done")


def test_an_idle_worker_that_has_ended_is_started_again(panel, add_scan, desktop):
    client = panel.widget.logic.client
    panel.segment(add_scan())
    client.stop()
    assert client.pid is None
    panel.segment()
    assert panel.ui.statusLabel.text.startswith("Done")


def test_without_pythonslicer_there_is_a_sentence_and_the_button_stays(panel, add_scan, desktop, monkeypatch, tmp_path):
    panel.choose(add_scan())
    panel.widget.logic.client.stop()
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        panel.segment()
        assert "PythonSlicer was not found" in panel.ui.statusLabel.text
        assert panel.ui.segmentButton.enabled
    panel.ui.batchInputPath.currentPath = str(tmp_path)
    panel.ui.batchOutputPath.currentPath = str(tmp_path / "out")
    desktop.click(panel.ui.batchRunButton)
    desktop.wait_until(lambda: panel.ui.batchRunButton.enabled)
    assert "PythonSlicer was not found" in panel.ui.batchStatusLabel.text


class _Installer:
    """Installs nothing, or fails."""

    def __init__(self, problem: str | None = None):
        self.problem, self.asked = problem, []
        self.on_finished = None

    def install(self, missing, on_log, on_finished):
        self.asked.append(list(missing))
        on_log("Collecting torch")
        self.on_finished = on_finished

    def cancel(self):
        self.on_finished("Stopped.")


@pytest.fixture
def without_torch(panel, monkeypatch):
    """A panel of a Slicer that has no torch yet; returns its installer."""
    from VNetSegmentationLib import panelWorker

    installer = _Installer()
    worker = panel.widget.panel.worker
    monkeypatch.setattr(worker, "_installer", installer)
    monkeypatch.setattr(
        panelWorker, "missingPackages", lambda path: [] if installer.problem == "installed" else ["torch"]
    )
    return installer


def test_the_first_click_installs_after_asking_once_and_goes_on_by_itself(panel, add_scan, desktop, without_torch):
    panel.choose(add_scan())
    desktop.click(panel.ui.segmentButton)
    (kind, question), *_ = desktop.dialogs
    assert kind == "confirmYesNoDisplay"
    assert "torch" in question
    assert without_torch.asked == [["torch"]]
    assert "Installing" in panel.ui.statusLabel.text
    assert "Collecting torch" in panel.ui.logText.plainText
    assert not panel.ui.batchRunButton.enabled
    without_torch.problem = "installed"
    without_torch.on_finished(None)
    desktop.wait_until(lambda: panel.idle)
    assert panel.segment_ids == ["Prostate"]
    assert len(desktop.dialogs) == 1


def test_a_user_who_declines_is_told_and_nothing_is_installed(panel, add_scan, desktop, without_torch):
    desktop.answers["confirmYesNoDisplay"] = False
    panel.choose(add_scan())
    desktop.click(panel.ui.segmentButton)
    assert without_torch.asked == []
    assert "PyTorch" in panel.ui.statusLabel.text
    assert panel.idle


def test_an_installation_that_fails_says_why(panel, add_scan, desktop, without_torch):
    panel.choose(add_scan())
    desktop.click(panel.ui.segmentButton)
    without_torch.on_finished("There is no connection to the internet. Bring these files: ...")
    assert "Bring these files" in panel.ui.statusLabel.text
    assert panel.ui.segmentButton.enabled
