"""Paths that ITK or the system would stumble over."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vnet_segmentation.errors import ExitCode, UserError


def check_name(path: str | os.PathLike[str], exit_code: ExitCode = ExitCode.BAD_INPUT) -> None:
    """Raises `UserError` where a path is not valid Unicode, as in old archives: SimpleITK would end the process."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError as error:
        shown = os.fspath(path).encode("utf-8", "replace").decode("utf-8")
        raise UserError(f"The name of {shown} has characters that are not Unicode. Rename it.", exit_code) from error


def walk(folder: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in the order of the names, through links to folders too, and each folder once, whatever leads to it.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}. Check its rights.") from error

    seen = set()
    for directory, subfolders, files in os.walk(folder, onerror=refuse, followlinks=True):
        # Links last: a folder keeps its own name when a link to it is added.
        subfolders.sort(key=lambda name: (os.path.islink(os.path.join(directory, name)), name))
        real = os.path.realpath(directory)
        if real in seen:
            subfolders.clear()
        else:
            seen.add(real)
            yield directory, subfolders, files
