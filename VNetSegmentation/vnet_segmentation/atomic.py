"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.paths import check_name

_TEMPORARY = re.compile(r"\.[0-9a-f]{12}-.+(?<!-before)")
"""Not the bundle that steps aside while a new one comes, see `bundle`."""
_PAUSES_S = (0.05, 0.2, 0.8)
"""On Windows a virus scanner may have a file open for so long, and nothing is moved or replaced then."""

LEFTOVER_AGE_S = 600.0
"""What has such a name and was not touched for so long belongs to a process that was killed."""


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that nobody else has, and that `remove_leftovers` knows."""
    # Dotted in front, so that a folder listing in the meantime passes it over. The end keeps the file's suffixes
    # (".seg.nrrd"), by which writers choose the format; ITK's NIfTI writer knows them in small letters only.
    suffixes = "".join(path.suffixes)
    return path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name.removesuffix(suffixes)}{suffixes.lower()}")


def remove_leftovers(folder: Path, older_than_s: float = LEFTOVER_AGE_S) -> None:
    """Removes files and folders with temporary names, which a killed process left; as far as that goes.

    Args:
        folder: looked at without its sub-folders; need not exist.
        older_than_s: 0 only where no other process can be writing.
    """
    paths = []
    with suppress(OSError):
        paths = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
    for path in paths:
        # One that cannot be removed, or that another process removed, does not keep the others.
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime < older_than_s:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes otherwise.

    Args:
        path: file to write, or a link to it, which stays; its folder is made if need be.

    Raises:
        UserError: the folder or the file cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    # The name by which a writer chooses the format is the link's.
    name, path = Path(path).name, _target(Path(path))
    temporary = temporary_beside(path.with_name(name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            # A power cut after the rename must not leave an empty file under the final name.
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
            patiently(os.replace, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def patiently(move: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Moves a file or a folder, by `os.replace` or `os.rename`, also where somebody has it open for a moment."""
    for pause_s in _PAUSES_S:
        with suppress(PermissionError):
            move(source, target)
            return
        time.sleep(pause_s)
    move(source, target)


def check_writable(path: Path) -> None:
    """Raises `UserError` (`ExitCode.CANNOT_WRITE`) where a file could not be written; writes nothing."""
    check_name(path, ExitCode.CANNOT_WRITE)
    path = _target(path)
    if os.path.isdir(path):
        raise UserError(f"Cannot write {path}: it is a folder. Choose another place.", ExitCode.CANNOT_WRITE)
    try:
        temporary_beside(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        # A name that is too long, or a folder that may not be looked into.
        raise cannot_write(path, error) from error
    existing = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK):
        problem = f"{existing} is not a folder that can be written"
        raise UserError(f"Cannot write {path}: {problem}. Choose another place.", ExitCode.CANNOT_WRITE)


def refuse_existing(path: Path) -> None:
    """Raises `UserError` (`ExitCode.CANNOT_WRITE`) where there is something already."""
    if os.path.exists(path):
        sentence = f"{path} exists already. Choose another name, or choose to overwrite."
        raise UserError(sentence, ExitCode.CANNOT_WRITE, "overwrite")


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def cannot_write(path: Path, error: OSError) -> UserError:
    """What to tell a user whose disk is full or whose folder is not theirs."""
    return UserError(
        f"Cannot write {path}: {error.strerror or error}. Choose a folder that can be written and has space.",
        ExitCode.CANNOT_WRITE,
    )
