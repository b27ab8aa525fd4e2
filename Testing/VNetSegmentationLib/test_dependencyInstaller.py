"""Installations by real pip processes, of small packages made here."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest

TIMEOUT_S = 60


@pytest.fixture
def python_slicer(tmp_path, monkeypatch) -> Path:
    """A launcher on the PATH, which starts Python as its child; the file returned gets a line for each start."""
    log = tmp_path / "commands"
    launcher = tmp_path / "logged" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n"{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def install(desktop):
    """Function that installs, cancels when a line with some text comes, and returns the log and the problem or None."""

    def run(missing: list[str], cancel_at: str | None = None) -> tuple[list[str], str | None]:
        log, problems = [], []
        from VNetSegmentationLib.dependencyInstaller import DependencyInstaller

        installer = DependencyInstaller()

        def show(line: str) -> None:
            log.append(line)
            if cancel_at and cancel_at in line:
                installer.cancel()

        installer.install(missing, show, problems.append)
        desktop.wait_until(lambda: problems)
        (problem,) = problems
        return log, problem

    return run


def test_install(install, site_packages, python_slicer, add_wheel):
    add_wheel("vnet-probe", "1.0")
    add_wheel("vnet-other", "2.0")
    log, problem = install(["vnet-probe>=1.0", "vnet-other"])
    assert problem is None
    assert importlib.metadata.version("vnet-other") == "2.0"
    assert any("Successfully installed" in line for line in log)
    assert log[0] == "pip install vnet-probe>=1.0 vnet-other"


def test_failure_shows_pips_own_last_lines(install, site_packages, python_slicer, add_wheel):
    add_wheel("vnet-probe", "1.0")
    _, problem = install(["vnet-probe>=2.0"])
    first, *lines = problem.splitlines()
    assert first == "The installation failed. pip says:"
    assert "vnet-probe>=2.0 (from versions: 1.0)" in lines[0]
    assert all(line.startswith("ERROR") for line in lines)


def test_failure_shows_pips_hint_too(desktop):
    from VNetSegmentationLib.dependencyInstaller import DependencyInstaller

    installer = DependencyInstaller()
    error, hint = "ERROR: Could not install packages", "HINT: Windows Long Path support"
    installer._lines = ["Installing collected packages: torch", error, hint, "[notice] A new release of pip"]
    assert installer._lastWords() == [error, hint]


def test_failure_without_network_gives_the_offline_advice(install, monkeypatch, site_packages, python_slicer):
    from VNetSegmentationLib.dependencies import offlineAdvice

    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    # Nobody listens at the port "discard".
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    _, problem = install(["vnet-probe"])
    assert problem == offlineAdvice(["vnet-probe"])


def test_success_that_brought_nothing_is_a_problem(
    install, monkeypatch, tmp_path, site_packages, python_slicer, add_wheel
):
    add_wheel("vnet-probe", "1.0")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    _, problem = install(["vnet-probe"])
    assert problem == "pip reports success, but vnet-probe cannot be found. Restart Slicer and try again."


def test_a_failure_that_left_nothing_missing_is_a_success(install, pretend_installed, python_slicer):
    # There already, and not among the wheels, but pip installs into a target whatever is there: it fails.
    pretend_installed("vnet_probe", "1.0")
    log, problem = install(["vnet-probe"])
    assert any(line.startswith("ERROR") for line in log)
    assert problem is None


def test_torch_comes_as_its_extension_gets_it(
    install, monkeypatch, site_packages, python_slicer, add_wheel, install_pytorch_extension
):
    # light-the-torch as the extension runs it, which here installs "torch" by adding metadata.
    light_the_torch = (
        "import pathlib, sys\n"
        f"info = pathlib.Path({str(site_packages)!r}) / 'torch-99.0.dist-info'\n"
        "info.mkdir()\n"
        "(info / 'METADATA').write_text('Name: torch\\nVersion: 99.0\\n')\n"
        "print('got', sys.argv[1:])\n"
    )
    add_wheel("light-the-torch", "0.8.1", light_the_torch)
    add_wheel("vnet-probe", "1.0")
    monkeypatch.setenv("PYTHONPATH", str(site_packages))
    install_pytorch_extension()
    log, problem = install(["torch>=98", "vnet-probe"])
    assert problem is None
    assert "got ['install', 'torch>=98']" in log
    commands = [line.partition("run_module.py ")[2] for line in python_slicer.read_text().splitlines()]
    assert commands == [
        "pip install vnet-probe",
        "pip install light-the-torch>=0.5",
        "light_the_torch install torch>=98",
    ]


@pytest.mark.parametrize("viaExtension", [True, False], ids=["extension", "pip"])
def test_windows_is_spared_the_torch_whose_paths_are_too_long_for_it(
    desktop, monkeypatch, install_pytorch_extension, viaExtension
):
    from packaging.requirements import Requirement

    from VNetSegmentationLib.dependencyInstaller import _commands

    def versions():
        line = next(
            word for command in _commands(["tqdm", "torch>=2.2"]) for word in command if word.startswith("torch")
        )
        return list(Requirement(line).specifier.filter(["2.1.0", "2.12.1", "2.13.0", "2.14.1"]))

    if viaExtension:
        install_pytorch_extension()
    assert versions() == ["2.12.1", "2.13.0", "2.14.1"]
    monkeypatch.setattr(sys, "platform", "win32")
    assert versions() == ["2.12.1", "2.14.1"]


def test_two_installations_at_once_are_refused(install, monkeypatch, python_slicer):
    packaging = types.SimpleNamespace(isPipInstallInProgress=lambda: True)
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    log, problem = install(["vnet-probe"])
    assert "Another installation" in problem
    assert log == []
    assert not python_slicer.exists()


def test_cancel_ends_the_process_behind_the_launcher(install, monkeypatch, tmp_path, site_packages, python_slicer):
    # In place of pip: a module that says its process id, and then downloads for ever.
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    (tmp_path / "fake" / "pip" / "__init__.py").touch()
    (tmp_path / "fake" / "pip" / "__main__.py").write_text(
        "import os, time\nprint('process', os.getpid(), flush=True)\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    log, problem = install(["vnet-probe"], cancel_at="process")
    assert problem == "The installation was stopped."
    process_id = int(log[1].split()[1])
    end = time.monotonic() + TIMEOUT_S
    while _is_alive(process_id) and time.monotonic() < end:
        time.sleep(0.05)
    alive = _is_alive(process_id)
    if alive:
        os.kill(process_id, signal.SIGKILL)
    assert not alive


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_progress_of_a_large_download_is_one_line_for_each_tenth(desktop):
    from VNetSegmentationLib.dependencyInstaller import DependencyInstaller

    installer = DependencyInstaller()
    installer._lines, installer._shownTenths, log = [], 0, []
    installer._onLog = log.append
    # pip's raw progress: four lines a second. 500 MB in steps of 5 MB, and a small file.
    for done in range(0, 500_000_001, 5_000_000):
        installer._show(f"Progress {done} of 500000000")
    installer._show("Progress 80000 of 80000")
    assert log == [f"  {done} of 500 MB" for done in range(50, 501, 50)]


def test_without_pythonslicer_there_is_a_sentence(install, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install(["vnet-probe"]) == ([], "PythonSlicer was not found. Install Slicer again.")
