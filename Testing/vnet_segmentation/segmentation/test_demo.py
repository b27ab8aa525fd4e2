"""The main job without any data, with the bundled model."""

from __future__ import annotations

import json

import pytest

from vnet_segmentation.cli.main import run
from vnet_segmentation.errors import ExitCode
from vnet_segmentation.images.scans import find_scans
from vnet_segmentation.segmentation.demo import DEMO_SEED


def test_the_demo_finds_the_gland_and_writes_what_it_says(tmp_path, capsys):
    assert run(["demo", "-o", str(tmp_path / "demo")]) == ExitCode.OK
    told = capsys.readouterr().out
    dice = float(told.split("synthetic scan: ")[1].split()[0])
    assert dice >= 0.8
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {f"phantom{ending}" for ending in (".nii.gz", "_segmentation.nii.gz")} | {
        f"phantom_prostate{ending}" for ending in (".nii.gz", ".png", ".json")
    }


def test_the_demo_takes_the_options_and_touches_no_scan_of_the_user(tmp_path, tiny_model, sees_bright, capsys):
    scan = tmp_path / "scan.nii.gz"
    scan.write_text("a scan of the user's")
    arguments = ["demo", "-o", str(tmp_path), "--model", str(tiny_model), "--threshold", "0.7"]
    for again in ([], ["--overwrite"]):
        assert run([*arguments, *again]) == ExitCode.OK
    assert json.loads((tmp_path / "phantom_prostate.json").read_text("utf-8"))["threshold"] == 0.7
    assert scan.read_text() == "a scan of the user's"
    # A batch of the folder takes neither the truth nor the result for a scan.
    assert [path.name for path in find_scans(tmp_path)] == ["phantom.nii.gz", "scan.nii.gz"]


@pytest.mark.parametrize("ending", [".nii.gz", "_segmentation.nii.gz", "_prostate.nii.gz", "_prostate.png"])
def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path, tiny_model, sees_bright, capsys, ending):
    file = tmp_path / f"phantom{ending}"
    file.write_text("the user's own")
    arguments = ["demo", "-o", str(tmp_path), "--model", str(tiny_model)]
    assert run(arguments) == ExitCode.CANNOT_WRITE
    told = f"{file} exists already. Choose another name, or choose to overwrite. See the option --overwrite.\n"
    assert capsys.readouterr().err.endswith(told)
    assert file.read_text() == "the user's own"
    assert list(tmp_path.glob("phantom*")) == [file]


def test_the_model_was_not_trained_on_the_demos_phantom():
    # training.cache draws seeds from 1000.
    assert DEMO_SEED < 1000


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["demo", "-o", str(tmp_path / "file" / "demo")]) == ExitCode.CANNOT_WRITE
    assert "Cannot write" in capsys.readouterr().err
