"""Paths that ITK or the system would stumble over."""

from __future__ import annotations

import os

from vnet_segmentation.errors import ExitCode, UserError


def check_name(path: str | os.PathLike[str], exit_code: ExitCode = ExitCode.BAD_INPUT) -> None:
    """Raises `UserError` where a path is not valid Unicode, as in old archives: SimpleITK would end the process."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError as error:
        shown = os.fspath(path).encode("utf-8", "replace").decode("utf-8")
        raise UserError(f"The name of {shown} has characters that are not Unicode. Rename it.", exit_code) from error
