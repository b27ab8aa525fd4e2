"""The headless training as a process of its own: Slicer is played, the engine is the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from untrained_model import save_untrained_model

from vnet_segmentation.images.phantom import PhantomGrid, make_phantom

SCRIPT = Path(__file__).resolve().parents[2] / "VNetSegmentation" / "Scripts" / "train.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two cases."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed in (1, 2):
        scan, mask = make_phantom(seed, PhantomGrid(size=(80, 80, 20), spacing_mm=(1.2, 1.2, 3.6)))
        sitk.WriteImage(scan, str(folder / f"case{seed}.nrrd"))
        sitk.WriteImage(mask, str(folder / f"case{seed}_segmentation.nrrd"))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An untrained, tiny model."""
    return save_untrained_model(tmp_path / "base")


def test_without_arguments_the_usage_is_shown(slicer):
    run = slicer(SCRIPT)
    assert run.returncode == 2
    assert "--data DIR" in run.stderr
    # Slicer eats these wherever they stand.
    assert not [word for word in ("--help", "--version", "--verbose", "--testing") if word in run.stderr]


def test_what_the_engine_refuses_ends_with_its_code_and_leaves_nothing(slicer, data, tmp_path):
    run = slicer(SCRIPT, "--data", "data", "--output", "mine", "--base", "none")
    assert run.returncode == 5
    assert "There is no model none" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert not (tmp_path / "mine").exists()


def test_a_model_is_trained_on_the_folder(slicer, data, base, tmp_path):
    run = slicer(
        SCRIPT,
        *("--data", "data", "--output", "mine", "--base", str(base), "--iterations", "2", "--device", "cpu"),
        *("--validation-cases", "case2", "--model-title", "Of two phantoms"),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "iteration 2" in run.stdout
    assert "Too few cases to tell" in run.stdout
    description = json.loads((tmp_path / "mine" / "model.json").read_text())
    assert description["title"] == "Of two phantoms"
    assert description["parent"]["name"] == "base"
