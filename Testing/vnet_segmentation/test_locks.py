"""Who writes waits for another one, and goes on without a lock where it gets none."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from vnet_segmentation.locks import alone


def test_a_lock_is_held_and_leaves_nothing_unless_it_is_needed_again(tmp_path: Path) -> None:
    lock = tmp_path / "masks" / ".lock"
    for is_needed in (True, False):
        with alone(lock, 1.0, keeps=lambda needed=is_needed: needed):
            assert lock.exists()
        assert lock.exists() == is_needed


def test_who_waits_too_long_goes_on_and_leaves_the_others_lock(tmp_path: Path) -> None:
    with FileLock(lock := tmp_path / ".lock"), ThreadPoolExecutor() as pool:

        def enter() -> bool:
            with alone(lock, 0.1):
                return True

        assert pool.submit(enter).result()
        assert lock.exists()


def test_a_file_system_without_locks_keeps_no_lock_file(tmp_path: Path, monkeypatch) -> None:
    def refuse(lock, *_, **__):
        # As on NFS without a lock service: the file is made before the lock is refused.
        Path(lock.lock_file).touch()
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with alone(tmp_path / "masks" / ".lock", 1.0):
        assert (tmp_path / "masks").is_dir()
    assert list((tmp_path / "masks").iterdir()) == []
