"""The headless batch as a process of its own: Slicer is played, the engine and the model are the real ones."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "VNetSegmentation" / "Scripts" / "segment_batch.py"
# Arguments: the file of a scan, and two bundles. Each gets it under a transform, and what is no scan; the second one
# gets the same name once more.
MAKE_SCENES = """
import sys, types
import numpy as np, SimpleITK as sitk, slicer, slicer.util, vtk

sys.modules["slicer.i18n"] = types.SimpleNamespace(tr=lambda text: text)
from VNetSegmentationLib.volumeNodes import addProbabilityVolume

scene = slicer.mrmlScene = slicer.vtkMRMLScene()

def add(name, voxels, kind="vtkMRMLScalarVolumeNode"):
    node = scene.AddNewNodeByClass(kind, name)
    slicer.util.updateVolumeFromArray(node, voxels)
    return node

image = sitk.ReadImage(sys.argv[1])
scan = add("T2: axial", sitk.GetArrayFromImage(image))
matrix = np.eye(4)
matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
matrix[:3, 3] = image.GetOrigin()
scan.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag((-1, -1, 1, 1)) @ matrix))
turn = vtk.vtkTransform()
turn.RotateX(30)
transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
transform.SetMatrixTransformToParent(turn.GetMatrix())
scan.SetAndObserveTransformNodeID(transform.GetID())
addProbabilityVolume(sitk.Cast(image, sitk.sitkFloat32), scan)
add("label", np.ones((5, 20, 20), np.uint8), "vtkMRMLLabelMapVolumeNode")
assert scene.WriteToMRB(sys.argv[2])
add("t2: AXIAL", np.random.default_rng(0).integers(0, 400, (2, 20, 20)).astype(np.int16))
assert scene.WriteToMRB(sys.argv[3])
"""


@pytest.fixture(scope="module")
def bundles(promise12, tmp_path_factory) -> tuple[Path, Path]:
    """Two scenes with the scan of Case00, the second one also with a volume of two slices; copied, not changed."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = folder / "one.mrb", folder / "two.mrb"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "VNetSegmentation")}
    command = [sys.executable, "-c", MAKE_SCENES, promise12 / "Case00.nii.gz", *paths]
    subprocess.run(command, check=True, env=environment)
    return paths


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of the batch's table by the scan's file name."""
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return {Path(row["scan"]).name: row for row in csv.DictReader(file)}


def _voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def test_without_arguments_the_usage_is_shown(slicer):
    run = slicer(SCRIPT)
    assert run.returncode == 2
    assert "--input PATH" in run.stderr
    # Slicer eats these wherever they stand.
    assert not [word for word in ("--help", "--version", "--verbose", "--testing") if word in run.stderr]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "."], "--output"),
        # The engine's own answer.
        (["--input", ".", "--output", "out", "--threshold", "4"], "4 is not a number between 0 and 1"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_leave_nothing(slicer, tmp_path, arguments, words):
    run = slicer(SCRIPT, *arguments)
    assert run.returncode == 2
    assert words in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert not (tmp_path / "out").exists()


def test_a_bug_ends_slicer_with_its_traceback(slicer):
    run = slicer(SCRIPT, "--input", ".", "--output", "out", BEFORE_SCRIPT="import shutil; del shutil.which")
    assert run.returncode == 1
    assert "AttributeError" in run.stderr


def test_files_a_scene_and_damaged_ones(slicer, promise12, bundles, tmp_path):
    folder = tmp_path / "Müller's scans"
    folder.mkdir()
    scan = shutil.copy(promise12 / "Case00.nii.gz", folder)
    (folder / "damaged.nrrd").write_text("NRRD0004\n")
    shutil.copy(bundles[1], folder / "Scene.mrb")
    (folder / "damaged.mrb").write_text("no archive")

    # Relative paths, though a damaged bundle leaves Slicer in a folder that is gone.
    model = os.path.relpath(ROOT / "Resources" / "Models" / "prostate-t2", tmp_path)
    arguments = ("--input", folder.name, "--output", "out", "--format", ".seg.nrrd", "--model", model)
    run = slicer(SCRIPT, *arguments)
    assert run.returncode == 1, run.stdout + run.stderr
    rows = _rows(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "Case00.nii.gz": "done",
        "damaged.nrrd": "failed",
        "T2_ axial.nrrd": "done",
    }
    assert "damaged.nrrd: failed" in run.stdout
    failures = [line for line in run.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 2
    assert "t2: AXIAL in" in failures[0]
    assert "fewer than 3 slices" in failures[0]
    assert "damaged.mrb cannot be read as a scene" in failures[1]

    # The scan of the scene is the file's, on its own grid: the transform above it is left out.
    exported = sitk.ReadImage(rows["T2_ axial.nrrd"]["scan"])
    original = sitk.ReadImage(scan)
    assert np.array_equal(sitk.GetArrayFromImage(exported), sitk.GetArrayFromImage(original))
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(exported, name)() == pytest.approx(getattr(original, name)(), abs=1e-6)
    masks = [_voxels(rows[name]["mask"]) for name in ("Case00.nii.gz", "T2_ axial.nrrd")]
    assert masks[0].sum() > 1000
    assert np.array_equal(*masks)
    report = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert report["counts"] == {"done": 2, "empty": 0, "skipped": 0, "failed": 1}

    # Again, without what fails: nothing is written anew.
    (folder / "damaged.nrrd").unlink()
    (folder / "damaged.mrb").unlink()
    shutil.copy(bundles[0], folder / "Scene.mrb")
    os.utime(folder / "Scene.mrb", (0, 0))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nrrd")}
    run = slicer(SCRIPT, *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {row["status"] for row in _rows(tmp_path / "out").values()} == {"skipped"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nrrd")} == before


def test_scenes_of_one_name_and_a_newer_scene(slicer, promise12, bundles, tmp_path):
    for patient in ("a", "b"):
        (tmp_path / patient).mkdir()
        shutil.copy(bundles[0], tmp_path / patient / "Scene.mrb")
    exported = tmp_path / "out" / "a" / "Scene" / "T2_ axial.nrrd"
    exported.parent.mkdir(parents=True)
    exported.write_text("of an older scene")
    os.utime(exported, (0, 0))
    # No scan is taken, so that the engine ends before it computes.
    run = slicer(SCRIPT, "--input", "a/Scene.mrb", "b/Scene.mrb", "--output", "out", "--pattern", "nothing*")
    assert run.returncode == 2
    assert "There are no scans with a name like nothing*" in run.stdout
    voxels = _voxels(promise12 / "Case00.nii.gz")
    assert np.array_equal(_voxels(exported), voxels)
    assert np.array_equal(_voxels(tmp_path / "out" / "b" / "Scene" / "T2_ axial.nrrd"), voxels)


def test_a_mrml_scene_with_its_data_beside_it(slicer, promise12, bundles, tmp_path):
    shutil.unpack_archive(bundles[0], tmp_path / "unpacked", "zip")
    (scene,) = (tmp_path / "unpacked").rglob("*.mrml")
    run = slicer(SCRIPT, "--input", scene, "--output", "out", "--pattern", "nothing*")
    assert run.returncode == 2
    assert np.array_equal(
        _voxels(tmp_path / "out" / scene.stem / "T2_ axial.nrrd"), _voxels(promise12 / "Case00.nii.gz")
    )


def test_only_scenes_that_fail(slicer, tmp_path):
    (tmp_path / "bad.mrb").write_text("no archive")
    run = slicer(SCRIPT, "--input", "bad.mrb", "--output", "out")
    assert run.returncode == 1
    assert "bad.mrb cannot be read as a scene" in run.stderr


def test_the_batch_ends_with_slicer(environment, promise12, tmp_path):
    slicer = subprocess.Popen(
        [sys.executable, tmp_path / "play_slicer.py", SCRIPT, "--input", promise12, "--output", "out"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    # The first of many scans is finished, and the next one under way.
    assert "done" in slicer.stdout.readline()
    child = int((tmp_path / "child").read_text())
    slicer.kill()
    slicer.communicate()
    end = time.monotonic() + 120
    while _is_alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    alive = _is_alive(child)
    if alive:
        os.kill(child, signal.SIGKILL)
    assert not alive
    # What is there is whole, and there is nothing else.
    assert all(_voxels(mask).any() for mask in (tmp_path / "out").rglob("*_prostate.nii.gz"))
    assert {path.name for path in (tmp_path / "out").rglob(".*")} <= {".results.lock"}


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
