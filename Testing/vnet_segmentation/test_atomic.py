"""Files appear whole or not at all."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from vnet_segmentation.atomic import LEFTOVER_AGE_S, atomic_path, check_writable, remove_leftovers, temporary_beside
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


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, exists):
    target, link = tmp_path / "archive" / "target", tmp_path / "mask.nrrd"
    link.symlink_to(target)
    if exists:
        target.parent.mkdir()
        target.write_text("earlier")
    check_writable(link)
    with atomic_path(link) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith("mask.nrrd")
        temporary.write_text("whole")
    assert link.is_symlink()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("n_refusals", "text"), [(2, "new"), (99, "old")])
def test_a_file_that_another_program_has_open_for_a_moment_is_replaced(tmp_path, monkeypatch, n_refusals, text):
    replace, pauses = os.replace, []

    def refuse(*names):
        if len(pauses) < n_refusals:
            raise PermissionError(13, "The process cannot access the file")
        replace(*names)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", pauses.append)
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UserError, match="cannot access") if text == "old" else nullcontext(), atomic_path(path) as new:
        new.write_text("new")
    assert path.read_text() == text
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert sum(pauses) < 2


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")

    def write():
        with atomic_path(tmp_path / "file" / "mask.nrrd") as temporary:
            temporary.write_text("")

    with pytest.raises(UserError, match="Cannot write") as caught:
        write()
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize("path", ["x" * 300, f"{'x' * 300}/mask.nrrd", f"{'x' * 250}.nrrd"])
def test_a_name_that_is_too_long_is_a_sentence_before_the_work(tmp_path, path):
    # The last one is short enough itself, but not with what makes it temporary.
    with pytest.raises(UserError, match=r"Cannot write .*too long") as caught:
        check_writable(tmp_path / path)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize("path", [".", "/"])
def test_a_path_without_a_name_is_a_sentence(path):
    with pytest.raises(UserError, match="it is a folder"):
        check_writable(Path(path))


def test_a_folder_that_may_not_be_looked_into_is_a_sentence_before_the_work(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(UserError, match=r"Cannot write .*: Permission denied"):
        check_writable(tmp_path / "mask.nrrd")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    with atomic_path(tmp_path / "mask.nrrd") as temporary:
        temporary.write_text("whole")
    assert order == ["fsync", "replace"]


def test_one_leftover_that_cannot_be_removed_does_not_keep_the_others(tmp_path, monkeypatch):
    leftovers = [temporary_beside(tmp_path / f"{number}.nrrd") for number in range(3)]
    for path in leftovers:
        path.write_text("half")
    unlink = Path.unlink

    def refuse(path, *arguments):
        if path == leftovers[0]:
            raise PermissionError("in use")
        unlink(path, *arguments)

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_leftovers(tmp_path, older_than_s=0)
    assert list(tmp_path.iterdir()) == [leftovers[0]]


def test_a_bundle_that_stepped_aside_is_no_leftover(tmp_path):
    # Of a model whose own name begins like a temporary one.
    before = tmp_path / f".0123456789ab-x{temporary_beside(tmp_path / '0123456789ab-x').name}-before"
    before.mkdir()
    remove_leftovers(tmp_path, older_than_s=0)
    assert before.exists()


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    old, young, folder = (temporary_beside(tmp_path / name) for name in ("old.nrrd", "young.nrrd", "model"))
    folder.mkdir()
    kept = [tmp_path / name for name in ("mask.nrrd", ".hidden", ".0123-mask.nrrd", ".mask.0123456789ab-before")]
    for path in (old, young, folder / "weights", *kept):
        path.write_text("half")
    before = time.time() - LEFTOVER_AGE_S - 1
    for path in (old, folder, *kept):
        os.utime(path, (before, before))
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([young, *kept])
    remove_leftovers(tmp_path, older_than_s=0)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "missing")
