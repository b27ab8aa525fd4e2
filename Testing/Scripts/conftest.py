"""A Slicer without a window, played by slicer-core, for the scripts that it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 120

# What `Slicer --no-main-window --python-script` does, on slicer-core. Slicer's own way to load a scene needs Qt.
PLAY_SLICER = """
import os, runpy, sys, tempfile, types
import slicer, slicer.util

scene = slicer.mrmlScene = slicer.vtkMRMLScene()
application = slicer.vtkSlicerApplicationLogic()
remote, data = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
application.SetMRMLScene(scene)
remote.SetMRMLScene(scene)
# A bundle is unpacked there.
remote.GetCacheManager().SetRemoteCacheDirectory(tempfile.mkdtemp())
data.SetMRMLApplicationLogic(application)
data.SetAndObserveDataIOManager(remote.GetDataIOManager())
remote.AddDataIOToScene()

sys.modules["slicer.i18n"] = types.SimpleNamespace(tr=lambda text: text)

def load_scene(path):
    scene.SetURL(path)
    if not (scene.ReadFromMRB(path, False) if path.endswith(".mrb") else scene.Import()):
        raise RuntimeError("Failed to load node from file: " + path)

exit_codes = []
slicer.util.loadScene = load_scene
slicer.util.startupEnvironment = lambda: dict(os.environ)
slicer.util.exit = exit_codes.append

exec(os.environ.get("BEFORE_SCRIPT", ""))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "torch" not in sys.modules
(exit_code,) = exit_codes
sys.exit(exit_code)
"""


@pytest.fixture
def environment(tmp_path, monkeypatch) -> dict[str, str]:
    """With PythonSlicer, a launcher that starts Python as its child and notes the child's process id in a file."""
    if sys.platform == "win32":
        pytest.skip("the launcher PythonSlicer is played by a shell script")
    launcher = tmp_path / "bin" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.write_text(
        f'#!/bin/sh\nexec 3<&0\n"{sys.executable}" "$@" <&3 &\necho $! > "{tmp_path / "child"}"\nwait $!\n'
    )
    launcher.chmod(0o755)
    (tmp_path / "play_slicer.py").write_text(PLAY_SLICER)
    return {
        **os.environ,
        "PATH": f"{launcher.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "TMPDIR": str(tmp_path),
    }


@pytest.fixture
def slicer(tmp_path, environment):
    """Function that runs a script in a played Slicer, in a folder of its own; returns the finished process."""

    def run(script: Path, *arguments, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, tmp_path / "play_slicer.py", script, *arguments],
            env={**environment, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run
