"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vnet_segmentation.errors import ExitCode, UserError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes otherwise.

    The temporary name keeps the file's suffixes (".seg.nrrd"), by which writers choose the format.

    Args:
        path: file to write; its folder is made if need be.

    Raises:
        UserError: the folder or the file cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    path = Path(path)
    # The name is dotted in front so that a folder listing in the meantime passes it over.
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            # A power cut after the rename must not leave an empty file under the final name.
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Choose a folder that can be written and has space.",
            ExitCode.CANNOT_WRITE,
        ) from error
