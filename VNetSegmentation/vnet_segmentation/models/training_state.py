"""A training's state folder, beside its model's: what the training needs to go on, and which process has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vnet_segmentation.atomic import cannot_write
from vnet_segmentation.errors import UserError
from vnet_segmentation.user_folders import TRAINING_SUFFIX

_LOCK_FILE = "lock"
_PATIENCE_S = 0.5


def state_folder(model: Path) -> Path:
    """Of the training of a model, which need not exist yet."""
    return model.with_name(model.name + TRAINING_SUFFIX)


def begun(folder: Path) -> Path | None:
    """One of the files from which the training of a state folder can go on; None if there is none."""
    return next(iter(sorted([*folder.glob("[!.]*.safetensors"), *folder.glob("fold-*.json")])), None)


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a state folder, which is made if need be, and removed if nothing was put into it.

    The system gives it back when a process is killed.

    Raises:
        UserError: another process has it, or the folder cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    made = [path for path in folder.parents if not path.exists()]
    lock = FileLock(folder / _LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not at once: `is_claimed` of another process holds it for a moment.
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout as error:
        name = folder.name.removesuffix(TRAINING_SUFFIX)
        raise UserError(f"{name} is being trained by another process. Wait for it, or stop it there.") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        # While it is still held, so that nobody's lock is removed but ours; Windows removes no open file.
        if os.name != "nt":
            _remove_if_empty(folder, made)
        lock.release()
        if os.name == "nt":
            _remove_if_empty(folder, made)


def _remove_if_empty(folder: Path, made: Sequence[Path]) -> None:
    with suppress(OSError):
        if [entry.name for entry in folder.iterdir()] == [_LOCK_FILE]:
            (folder / _LOCK_FILE).unlink()
            for path in (folder, *made):
                path.rmdir()


def is_claimed(folder: Path) -> bool:
    """Whether a process trains there now."""
    if not folder.is_dir():
        return False
    try:
        with claim(folder):
            return False
    except UserError:
        return True


def discard(folder: Path) -> None:
    """Removes a state folder, as far as that goes.

    Raises:
        UserError: a process trains there.
    """
    if folder.is_dir():
        with claim(folder):
            for entry in [entry for entry in folder.iterdir() if entry.name != _LOCK_FILE]:
                # One that another program has open, on Windows, does not keep the others.
                with suppress(OSError):
                    if entry.is_dir():
                        shutil.rmtree(entry, ignore_errors=True)
                    else:
                        entry.unlink(missing_ok=True)
