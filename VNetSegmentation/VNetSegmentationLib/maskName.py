"""Names of files. No Qt, no scene."""

import re
from pathlib import Path

from slicer.i18n import tr as _

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.mask_files import MASK_SUFFIX

FORMATS = (MASK_SUFFIX, ".nii.gz", ".nrrd")
DEFAULT_PATTERN = "{scan}_prostate"

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
"""Characters that one system or another does not take in a file name."""


def fileName(text: str) -> str:
    """A text as a file name, without suffix, that every system takes; empty if nothing is left of it."""
    return _FORBIDDEN.sub("_", text).strip(" .")


def maskPath(folder: str, pattern: str, scan: str, suffix: str) -> Path:
    """The file for a mask.

    Args:
        folder: where it goes; must exist.
        pattern: name without suffix, in which ``{scan}`` stands for the scan's name.
        scan: name of the scan; characters that cannot be in a file name become "_".
        suffix: one of `FORMATS`.

    Raises:
        UserError: there is no such folder, or the name is empty.
    """
    if not folder or not Path(folder).is_dir():
        raise UserError(_("Choose a folder for the mask that exists."), ExitCode.CANNOT_WRITE)
    name = fileName(pattern.replace("{scan}", scan))
    if not name:
        raise UserError(_("Give the mask a name."), ExitCode.USAGE)
    return Path(folder) / f"{name}{suffix}"
