"""The main job without any data, with the bundled model."""

from __future__ import annotations

from vnet_segmentation.cli import run
from vnet_segmentation.demo import DEMO_SEED
from vnet_segmentation.errors import ExitCode


def test_the_demo_finds_the_gland_and_writes_what_it_says(tmp_path, capsys):
    assert run(["demo", "-o", str(tmp_path / "demo")]) == ExitCode.OK
    told = capsys.readouterr().out
    dice = float(told.split("synthetic scan: ")[1].split()[0])
    assert dice >= 0.8
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"scan.nii.gz", "truth.nii.gz", "scan_prostate.nii.gz", "scan_prostate.png", "scan_prostate.json"}


def test_the_model_was_not_trained_on_the_demos_phantom():
    # training_cache draws seeds from 1000.
    assert DEMO_SEED < 1000


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["demo", "-o", str(tmp_path / "file" / "demo")]) == ExitCode.CANNOT_WRITE
    assert "Cannot write" in capsys.readouterr().err
