"""One process at a time where several write the same files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(path: Path, patience_s: float, keeps: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Waits for a lock and holds it, where the file system has locks; where it has none, or waiting takes too long, the
    work goes on without: a batch is not to end for a table, nor a mask to be lost.

    Args:
        path: the lock's file, in a folder that is made if need be.
        keeps: asked at the end: whether the file is needed again. Windows, and filelock from 3.20.4 to 3.29, remove it
            in any case.
    """
    lock, is_ours = FileLock(path), True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience_s)
    except (Timeout, PermissionError):
        is_ours = False
    except (OSError, NotImplementedError):
        # There are no locks: the file is nobody's.
        pass
    try:
        yield
    finally:
        # While it is held, so that nobody's lock is removed but ours.
        if is_ours and os.name != "nt" and not keeps():
            with suppress(OSError):
                path.unlink()
        lock.release()
