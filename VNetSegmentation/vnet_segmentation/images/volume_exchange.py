"""Volumes that pass between processes: a numpy file for the voxels, plain values for the geometry.

Unlike an image format this keeps every pixel type and the geometry to the last digit, costs no compression, and is
read with Python's own file functions, which know every character of a path on every system.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError


def write_exchange(image: sitk.Image, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes a volume's voxels, in SimpleITK's array order (z, y, x), to a ``.npy`` file.

    Returns:
        What `read_exchange` needs: the file and the geometry in LPS, fit for JSON.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with open(path, "wb") as file:
            np.save(file, sitk.GetArrayViewFromImage(image))
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. The disk of temporary files may be full.",
            ExitCode.CANNOT_WRITE,
        ) from error
    return {
        "voxels": str(path),
        "spacing_mm": list(image.GetSpacing()),
        "origin_mm": list(image.GetOrigin()),
        "direction": list(image.GetDirection()),
    }


def read_exchange(exchanged: dict[str, Any]) -> sitk.Image:
    """The volume that `write_exchange` wrote.

    Raises:
        UserError: the file is missing or damaged.
        KeyError, TypeError: the geometry is none.
    """
    path = Path(exchanged["voxels"])
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"Cannot read {path.name}: {error}. Try again.") from error
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(exchanged["spacing_mm"])
    image.SetOrigin(exchanged["origin_mm"])
    image.SetDirection(exchanged["direction"])
    return image
