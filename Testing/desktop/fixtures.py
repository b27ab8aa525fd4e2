"""The desktop for tests: an empty scene, no old dialogs, settings of its own, and no process left behind."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).resolve().parents[2] / "VNetSegmentation" / "VNetSegmentation.py"
WARM_PYTHON, ASK = (Path(__file__).with_name(f"{name}.py") for name in ("warm_python", "ask_warm_python"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIR", help="write a picture of the panel after each test that opens it")


class Desktop:
    """What a test does with the application."""

    def __init__(self) -> None:
        from desktop import dialogs

        self.dialogs, self.answers = dialogs.dialogs, dialogs.answers
        self._panels: list[Any] = []

    def open_module(self, path: Path = MODULE, enter: bool = True) -> Any:
        """The module's widget, set up, and entered as when a user selects the module."""
        import slicer

        from desktop import util
        from desktop.pythonqt import unwrap, wrap
        from desktop.scripted_module import qSlicerScriptedLoadableModuleWidget

        module = importlib.import_module(path.stem)
        util.module_paths[path.stem] = str(path)
        parent = types.SimpleNamespace(path=str(path))
        getattr(module, path.stem)(parent)
        root = wrap(qSlicerScriptedLoadableModuleWidget())
        root.setMRMLScene(slicer.mrmlScene)
        widget = getattr(module, f"{path.stem}Widget")(root)
        self._panels.append((widget, root))
        widget.setup()
        if enter:
            unwrap(root).resize(420, 900)
            unwrap(root).show()
            unwrap(root).entered = True
            widget.enter()
        return widget

    def wait_until(self, happened: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Runs the event loop until something has happened."""
        import slicer

        deadline = time.monotonic() + timeout_s
        while not happened():
            assert time.monotonic() < deadline, f"nothing happened in {timeout_s:g} s"
            slicer.app.processEvents()
            time.sleep(0.005)

    def run_for(self, seconds: float) -> None:
        """Runs the event loop for a while."""
        end = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= end)

    def click(self, button: Any) -> None:
        """Presses a button, which must be one that a user can press."""
        assert button.isEnabled(), f"{button.objectName} is disabled: {button.toolTip}"
        assert not button.isHidden(), f"{button.objectName} is hidden"
        button.click()

    def screenshot(self, widget: Any, path: Path) -> None:
        """Writes a picture of a widget."""
        from desktop.pythonqt import unwrap

        assert unwrap(widget).grab().save(str(path))

    def screenshots(self, folder: Path, name: str) -> None:
        """Writes a picture of each open panel that was set up."""
        folder.mkdir(parents=True, exist_ok=True)
        self.run_for(0.2)
        for number, widget in enumerate(widget for widget, _ in self._panels if hasattr(widget, "ui")):
            self.screenshot(widget.ui.tabs, folder / f"{name}{f'-{number}' if number else ''}.png".replace("/", "_"))

    def close(self) -> None:
        """Ends the panels as the application does when it ends."""
        import slicer
        from PySide6 import QtCore

        from desktop.pythonqt import unwrap

        for widget, root in self._panels:
            widget.exit()
            widget.cleanup()
            unwrap(root).deleteLater()
        self._panels = []
        # Nothing else deletes them without a running event loop, and each would follow the scenes of all later tests.
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        slicer.mrmlScene.Clear(0)
        slicer.app.processEvents()
        self.dialogs.clear()
        self.answers.clear()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """The socket of a `warm_python`; None on macOS, where a process that has loaded torch must not be forked."""
    if sys.platform != "linux":
        yield None
        return
    path = tmp_path_factory.mktemp("python") / "socket"
    command = [sys.executable, "-E", "-X", "utf8", WARM_PYTHON, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield path
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def desktop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, warm_python: Path | None
) -> Iterator[Desktop]:
    """Slicer's desktop, empty. With `--screenshots DIR` there is a picture of how each test leaves the panel.

    Where it cannot be played, on Windows and without slicer-core, the test is skipped.
    """
    if sys.platform == "win32":
        pytest.skip("the launcher PythonSlicer is played by a shell script")
    pytest.importorskip("slicer", reason="needs slicer-core")
    from desktop import install

    install()
    from PySide6 import QtCore

    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(
        QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(tmp_path / "settings")
    )
    # What a panel keeps for the user, models and training cases: the home is for macOS, where nothing else moves them.
    for variable in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    launcher = python_slicer(tmp_path / "bin", warm_python)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    desktop = Desktop()
    desktop.close()
    yield desktop
    folder = request.config.getoption("--screenshots")
    if folder:
        desktop.screenshots(Path(folder), request.node.name)
    desktop.close()


def python_slicer(folder: Path, warm_python: Path | None = None) -> Path:
    """A PythonSlicer that starts Python as a child, as the real launcher does; a worker comes from a `warm_python`."""
    folder.mkdir(exist_ok=True)
    launcher = folder / "PythonSlicer"
    ask = f'[ "$2" = vnet_segmentation.worker ] && exec "{sys.executable}" -I -S "{ASK}" "{warm_python}" "$@"\n'
    launcher.write_text(f'#!/bin/sh\n{ask if warm_python else ""}"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    return launcher
