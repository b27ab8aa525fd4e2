"""The user's own training cases: a folder that grows by a scan and its corrected mask at a time."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.mask_files import write_mask, write_scan
from vnet_segmentation.metrics import check_same_grid

_SUFFIX = ".nrrd"
"""Keeps every pixel type, and the geometry in full precision."""


@dataclass(frozen=True)
class AddedCase:
    """A case as it lies in the folder."""

    name: str
    image: Path
    mask: Path
    replaced: bool
    """The scan was in the folder already, and its mask was replaced."""


def add_case(folder: str | os.PathLike[str], scan: sitk.Image, mask: sitk.Image) -> AddedCase:
    """Adds a scan and its mask, in the naming that `dataset.find_cases` reads.

    The name is made of the scan's voxels: it tells nothing of the patient, and the same scan again replaces its mask
    instead of becoming a second case, which could end up in training and validation both. The files have voxels and
    geometry and no other header field.

    Args:
        folder: of the training cases; made if need be.
        scan: 3D, scalar, of any pixel type.
        mask: uint8 of 0 and 1, on the scan's grid.

    Raises:
        UserError: the mask is empty or not on the scan's grid, the folder holds a data set of another layout, or it
            cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    folder = Path(folder)
    check_same_grid(mask, scan, "The mask", "the scan")
    if not sitk.GetArrayViewFromImage(mask).any():
        raise UserError("The mask is empty: there is nothing to learn from it. Draw the prostate first.")
    if (folder / "imagesTr").is_dir():
        raise UserError(
            f"{folder} is a data set in the layout of nnU-Net. Choose another folder for the training cases.",
            ExitCode.USAGE,
        )
    name = f"case-{_fingerprint(scan)}"
    case = AddedCase(
        name,
        folder / f"{name}{_SUFFIX}",
        folder / f"{name}_segmentation{_SUFFIX}",
        (folder / f"{name}{_SUFFIX}").exists(),
    )
    if not case.replaced:
        write_scan(scan, case.image)
    write_mask(mask, case.mask)
    return case


def _fingerprint(scan: sitk.Image) -> str:
    """12 hexadecimal digits of a hash of voxels and geometry."""
    digest = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(scan)).data)
    digest.update(repr((scan.GetSize(), scan.GetSpacing(), scan.GetOrigin(), scan.GetDirection())).encode())
    return digest.hexdigest()[:12]
