"""The user's own training cases: a folder that grows by a scan and its corrected mask at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.mask_files import write_mask, write_scan
from vnet_segmentation.images.metrics import check_same_grid
from vnet_segmentation.images.scans import check_scan, voxel_hash

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

    The name is made of the scan's voxel values: it tells nothing of the patient, any number of processes can add at
    once, and the same scan again, from whichever file and wherever it was moved, replaces its mask instead of becoming
    a second case, which could end up in training and validation both. The files have voxels and geometry and no other
    header field.

    Args:
        folder: of the training cases; made if need be.
        scan: 3D, scalar, of any pixel type, which is kept.
        mask: uint8 of 0 and 1, on the scan's grid.

    Raises:
        UserError: the mask is empty, full or not on the scan's grid, the scan is none (`scans.check_scan`), the folder
            holds a data set of another layout, or it cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    folder = Path(folder)
    check_scan(scan, "The scan")
    check_same_grid(mask, scan, "The mask", "the scan")
    voxels = sitk.GetArrayViewFromImage(mask)
    if not voxels.any():
        raise UserError("The mask is empty: there is nothing to learn from it. Draw the prostate first.")
    if voxels.all():
        raise UserError("The mask covers the whole scan. Draw the prostate alone.")
    if (folder / "imagesTr").is_dir():
        raise UserError(
            f"{folder} is a data set in the layout of nnU-Net. Choose another folder for the training cases.",
            ExitCode.USAGE,
        )
    name = f"case-{voxel_hash(scan)}"
    image_file, mask_file = folder / f"{name}{_SUFFIX}", folder / f"{name}_segmentation{_SUFFIX}"
    replaced = image_file.exists() and mask_file.exists()
    # In this order: a mask alone is a case that says what is missing, a scan alone may be any file.
    write_mask(mask, mask_file)
    write_scan(scan, image_file)
    return AddedCase(name, image_file, mask_file, replaced)
