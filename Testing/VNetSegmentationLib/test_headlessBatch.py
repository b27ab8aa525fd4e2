"""What the batch of a Slicer without a window does before the engine's process is needed."""

from __future__ import annotations

import importlib.metadata

import pytest


@pytest.fixture
def batch(desktop, monkeypatch, tmp_path):
    """The module; the current folder is an empty one."""
    from VNetSegmentationLib import headlessBatch

    monkeypatch.chdir(tmp_path)
    return headlessBatch


def test_a_path_that_is_not_there_is_told_before_anything_is_done(batch, tmp_path, capsys):
    assert batch.runHeadlessBatch(["--input", "missing", "--output", "out"]) == 2
    assert "There is no file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--treshold", "--thresh"])
def test_a_mistyped_option_is_told(batch, capsys, option):
    with pytest.raises(SystemExit) as stopped:
        batch.runHeadlessBatch(["--input", ".", "--output", "out", option, "0.4"])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err


def test_a_missing_package_ends_with_code_3_and_says_what_to_do(batch, tmp_path, monkeypatch, capsys):
    find = importlib.metadata.version

    def version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert batch.runHeadlessBatch(["--input", ".", "--output", "out"]) == 3
    said = capsys.readouterr().err
    assert "not installed in Slicer: torch." in said
    assert "press Segment prostate" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_names_of_volumes_become_names_of_files(batch):
    class Volume(str):
        def GetName(self):
            return str(self)

    names = ["T2", "t2", "T2-2", "a/b\\c:d*?", " ..", "Ärztin. ", "T2"]
    assert batch._fileNames([Volume(name) for name in names]) == [
        "T2.nrrd",
        "t2-2.nrrd",
        "T2-2-2.nrrd",
        "a_b_c_d__.nrrd",
        "volume.nrrd",
        "Ärztin.nrrd",
        "T2-3.nrrd",
    ]
