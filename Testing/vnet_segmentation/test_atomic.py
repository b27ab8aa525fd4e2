"""Files appear whole or not at all."""

from __future__ import annotations

import pytest

from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.errors import ExitCode, UserError


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "mask.seg.nrrd"
    with atomic_path(path) as temporary:
        assert temporary.name.endswith("mask.seg.nrrd")
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "mask.nrrd"
    path.write_text("earlier")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        write_half()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")

    def write():
        with atomic_path(tmp_path / "file" / "mask.nrrd") as temporary:
            temporary.write_text("")

    with pytest.raises(UserError, match="Cannot write") as caught:
        write()
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
