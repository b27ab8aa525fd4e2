"""Names that ITK would stumble over, and folders with their sub-folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vnet_segmentation.errors import UserError
from vnet_segmentation.paths import check_name, walk


def test_a_name_that_is_not_unicode_is_a_sentence_that_can_be_printed():
    check_name(Path("Größe 前列腺.nii"))
    # As Python has the bytes of "schön.nii" in Latin-1.
    with pytest.raises(UserError, match=r"^The name of folder.sch\?n\.nii has characters that are not Unicode"):
        check_name(Path("folder", "sch\udcf6n.nii"))


def test_folders_are_walked_through_links_and_each_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "scan.nii").touch()
    tree = tmp_path / "tree"
    (tree / "b").mkdir(parents=True)
    (tree / "a").symlink_to(tmp_path / "elsewhere")
    (tree / "b" / "back").symlink_to(tree)
    (tree / "c").symlink_to(tmp_path / "elsewhere")
    visited = [(Path(directory), files) for directory, _, files in walk(tree)]
    # Links last, so that a folder keeps its name when a link to it comes.
    assert visited == [(tree, []), (tree / "b", []), (tree / "a", ["scan.nii"])]


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "private").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "private":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"private cannot be read: Permission denied"):
        list(walk(tmp_path))
