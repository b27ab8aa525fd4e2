"""Small DICOM series for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.images import dicom_files

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
MR_STORAGE, CT_STORAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"


def write_series(
    folder: Path,
    number: int = 3,
    description: str = "t2_tse_tra",
    *,
    uid: str | None = None,
    modality: str = "MR",
    n_slices: int = 12,
    orientation: tuple[float, ...] = AXIAL,
    position_mm: Callable[[int], np.ndarray] | None = None,
    voxels: np.ndarray | None = None,
    spacing_mm: tuple[float, float] = (2.0, 3.0),
) -> np.ndarray:
    """Slices along the normal; returns their voxels (k, j, i), int16.

    The files' names run against their positions, so that a reader which sorts by name is found out.

    Args:
        voxels: noise of 16 x 14 pixels and `n_slices` slices by default.
        spacing_mm: of the pixels, and of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or f"1.2.826.{number}"
    normal = np.cross(orientation[:3], orientation[3:])
    position_mm = position_mm or (lambda k: spacing_mm[1] * k * normal)
    if voxels is None:
        voxels = np.random.default_rng(number).integers(100, 500, (n_slices, 14, 16), dtype=np.int16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(len(voxels)):
        image = sitk.GetImageFromArray(voxels[k])
        image.SetSpacing((spacing_mm[0], spacing_mm[0]))
        tags = {
            dicom_files.SOP_CLASS: MR_STORAGE if modality == "MR" else CT_STORAGE,
            "0008|0018": f"{uid}.{k + 1}",
            dicom_files.MODALITY: modality,
            dicom_files.DESCRIPTION: description,
            dicom_files.SERIES_NUMBER: str(number),
            "0020|000d": "1.2.826",
            "0020|000e": uid,
            "0020|0013": str(k + 1),
            dicom_files.POSITION: "\\".join(f"{x:g}" for x in position_mm(k)),
            dicom_files.ORIENTATION: "\\".join(f"{x:g}" for x in orientation),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{len(voxels) - k:03d}.dcm"))
        writer.Execute(image)
    return voxels
