"""Finding, reading and checking scans."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.apart import apart
from vnet_segmentation.images.dicom import check_voxel_count, read_series
from vnet_segmentation.images.dicom_files import MODALITY
from vnet_segmentation.images.dicom_stack import check_frames
from vnet_segmentation.images.file_errors import bad_direction, bad_spacing, not_finite, reader_error
from vnet_segmentation.images.file_headers import read_header
from vnet_segmentation.paths import check_name, walk

SCAN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".hdr.gz")
"""Files that a batch takes for scans; a header stands for the voxels beside it. A single scan may be any file that
SimpleITK reads."""

DICOM_SUFFIXES = (".dcm", ".ima")
"""Files that are taken for DICOM by their names; others are by their contents."""

MASK_STEMS = ("_prostate", "_segmentation", "_probability")
"""Ends of the names, before the suffix, of files that are results or reference masks and never scans."""

MASK_SUFFIX = ".seg.nrrd"
"""A Slicer segmentation."""

MIN_SIDE_VOXELS = 3
MIN_EXTENT_MM, MAX_EXTENT_MM = 20.0, 2000.0
"""A field of view outside of these limits is no pelvis, or its spacing is not in mm."""

MAX_MASK_VALUES = 8
"""An image with as few different values is a mask or a label map, whatever they are."""

AIR_HU = (-1150.0, -850.0)
CT_AIR_SHARE = 0.1
"""An image with at least this share of voxels around -1000 is taken for a CT in Hounsfield units."""

MAX_OFFSET, CONTRASTS = 1e3, (1e-15, 1e15)
"""Times its contrast that a scan's darkest voxel may be away from 0, and the contrasts, in its own unit, of which
float32 keeps enough grey levels and can add up the squares."""

DIRECTION_TOLERANCE = 2e-4
"""Largest error of the direction cosines' dot products. Cosines of four decimals are wrong by up to 1.7e-4; NIfTI keeps
right angles only, and with more its mask would lie beside the scan by a tenth of a voxel."""


def read_scan(path: str | os.PathLike[str], series: str | None = None) -> sitk.Image:
    """Reads a scan and refuses what cannot be a prostate MR.

    Args:
        path: a file that SimpleITK reads, or a folder of DICOM slices.
        series: number or UID of the DICOM series, where the folder holds several.

    Returns:
        3D image, float32, one value per voxel, all finite, on the file's own grid.

    Raises:
        UserError: what is wrong with the scan and what to do; see `check_scan`, `read_volume` and `dicom.read_series`.
    """
    return read_scan_and_series(path, series)[0]


def read_scan_and_series(
    path: str | os.PathLike[str], series: str | None = None, subfolders: bool = True
) -> tuple[sitk.Image, str | None]:
    """`read_scan`, and which DICOM series of a folder that is, for a person; None of a file.

    `subfolders`: whether those of a DICOM folder count too.
    """
    path = Path(path)
    chosen = None
    if os.path.isdir(path):
        if series is None:
            _check_folder(path)
        image, chosen = read_series(path, series, subfolders)
    elif series is not None:
        raise UserError(
            f"{path.name} is not a folder of DICOM slices, so there is no series {series} to choose. "
            f"Give the folder, or no series.",
            ExitCode.USAGE,
        )
    elif path.name.lower().endswith(MASK_SUFFIX) and os.path.isfile(path):
        raise UserError(f"{path.name} is a segmentation, not a scan. Give the MR scan it was drawn on.")
    else:
        image = read_volume(path)
    return check_scan(image, path.resolve().name), chosen


def voxel_hash(scan: sitk.Image) -> str:
    """12 hexadecimal digits of a hash of size and voxel values: the same scan in another file, place or pixel type has
    the same."""
    values = sitk.GetArrayViewFromImage(scan).astype("<f8")
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    digest.update(repr(scan.GetSize()).encode())
    return digest.hexdigest()[:12]


def check_scan(image: sitk.Image, name: str) -> sitk.Image:
    """Refuses an image that cannot be a prostate MR scan.

    Args:
        image: image of any pixel type; a fourth dimension of one frame is dropped.
        name: what the messages call it.

    Returns:
        The same image as float32; `image` itself is not changed. Values of which float32 would lose the contrast, such
        as 1e9 and a little more, are scaled to 0 to 1000.

    Raises:
        UserError: not 3D, several values per voxel, fewer than `MIN_SIDE_VOXELS` voxels or an extent outside of
            `MIN_EXTENT_MM` to `MAX_EXTENT_MM` along an axis, too many voxels, axes that are not orthogonal, voxels that
            are not finite, a constant image, at most `MAX_MASK_VALUES` different values (a mask), or a CT (by the
            DICOM modality, or at least `CT_AIR_SHARE` of the voxels as dark as air in Hounsfield units).
    """
    _check_grid(image, name)
    image = _single_frame(image)
    size, spacing_mm = image.GetSize(), image.GetSpacing()
    if min(size) < MIN_SIDE_VOXELS:
        hint = " If it is one slice of a DICOM series, give the folder." if MODALITY in image.GetMetaDataKeys() else ""
        raise UserError(
            f"{name} has too few slices: its size is {_times(size)} voxels. Give a 3D scan of the whole prostate.{hint}"
        )
    extent_mm = [n * step for n, step in zip(size, spacing_mm, strict=True)]
    if min(extent_mm) < MIN_EXTENT_MM or max(extent_mm) > MAX_EXTENT_MM:
        raise UserError(
            f"{name} covers {_times([f'{side:.3g}' for side in extent_mm])} mm, which is too "
            f"{'small' if min(extent_mm) < MIN_EXTENT_MM else 'large'} for a scan of the prostate. "
            f"Check that its spacing is in mm and that it is the whole scan."
        )
    if MODALITY in image.GetMetaDataKeys() and image.GetMetaData(MODALITY).strip() == "CT":
        raise UserError(f"{name} is a CT. Give a T2-weighted MR scan.")
    image = _as_float32(image)
    _check_values(sitk.GetArrayViewFromImage(image), name)
    return image


def read_volume(path: str | os.PathLike[str]) -> sitk.Image:
    """Reads a file with one 3D volume, scan or mask, after checking its header.

    Returns:
        3D image with one value per voxel, in the file's pixel type.

    Raises:
        UserError: a file that is missing, empty, of no known format, damaged or incomplete; whose name is not Unicode;
            that is 2D, 4D or has several values per voxel; that has more than `dicom.MAX_VOXELS` voxels by its header
            (no pixel is read then); whose spacing is not positive or whose direction is not orthonormal; a DICOM file
            whose frames are no even stack (`dicom_stack.check_frames`); a NIfTI file with voxels that are not finite,
            which ITK 5.4 reads as 0. In an Analyze file (a .hdr older than NIfTI) it does so unseen; in other formats
            they are kept, for `check_scan` to refuse.
    """
    path = Path(path)
    check_name(path)
    name = path.name
    # Not Path's own methods, which raise where the folder may not be looked into or a name is too long.
    if not os.path.isfile(path):
        problem = "is not a file" if os.path.exists(path) else "does not exist or cannot be reached"
        raise UserError(f"{path} {problem}. Check the path.")
    if os.path.getsize(path) == 0:
        raise UserError(f"{name} is empty (0 bytes). Copy, download or export it again.")
    try:
        with apart(path) as alone:
            header = read_header(alone, name)
            header.check()
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(alone))
            if path.suffix.lower() in (".mha", ".mhd"):
                # It does not know its own files by names in capitals.
                reader.SetImageIO("MetaImageIO")
            reader.ReadImageInformation()
            _check_grid(reader, name)
            header.check_data(reader)
            check_frames(reader, name)
            return _single_frame(reader.Execute())
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}. Check the file and its rights.") from error
    except RuntimeError as error:
        raise reader_error(error, name) from error


def find_scans(folder: str | os.PathLike[str]) -> list[Path]:
    """The scans in a folder and its subfolders, sorted.

    Files of `SCAN_SUFFIXES`, and each folder that holds DICOM files as one path. Hidden files and folders are passed
    over, and so are masks and probability volumes (`MASK_STEMS`, `MASK_SUFFIX`).

    Raises:
        UserError: the folder does not exist, or it or a subfolder cannot be read.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder. Check the path of the folder with the scans.", ExitCode.USAGE)
    scans = []
    for directory, subfolders, files in walk(folder):
        subfolders[:] = [one for one in subfolders if not one.startswith(".")]
        visible = [Path(directory, file) for file in files if not file.startswith(".")]
        scans += [path for path in visible if _is_scan_name(path.name)]
        if any(_is_dicom(path) for path in visible if not path.name.lower().endswith(SCAN_SUFFIXES)):
            scans.append(Path(directory))
    return sorted(scans)


def scan_stem(path: str | os.PathLike[str]) -> str:
    """The scan's name without its suffix: "case" for "case.nii.gz", "case.seg.nrrd", or the DICOM folder "case"."""
    name = Path(path).name or Path(path).resolve().name
    for suffix in (MASK_SUFFIX, *SCAN_SUFFIXES, ".img", ".img.gz", ".dcm"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _check_folder(folder: Path) -> None:
    """Refuses a folder of scan files: the one DICOM series in its sub-folders would be taken for all of it."""
    _, _, names = next(walk(folder))
    scans = [name for name in sorted(names) if _is_scan_name(name) and not name.startswith(".")]
    if scans and not any(_is_dicom(folder / name) for name in names):
        named = ", ".join(scans[:3]) + ", ..." * (len(scans) > 3)
        raise UserError(
            f"The folder {folder.resolve().name} holds scan files ({named}), and no DICOM images beside them. "
            f"Give one of them, or the folder to a batch."
        )


def _is_scan_name(name: str) -> bool:
    name = name.lower()
    return name.endswith(SCAN_SUFFIXES) and not (name.endswith(MASK_SUFFIX) or scan_stem(name).endswith(MASK_STEMS))


def _is_dicom(path: Path) -> bool:
    if not os.path.isfile(path):
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        # Also without the four letters, as in old archives, or damaged: what is left out would be left out unseen.
        return True
    try:
        with open(path, "rb") as file:
            # 128 bytes of preamble, then the four letters, as DICOM part 10 has it.
            return file.read(132)[128:] == b"DICM" and path.name.upper() != "DICOMDIR"
    except OSError:
        return False


def _times(values: Any) -> str:
    return " x ".join(map(str, values))


def _single_frame(image: sitk.Image) -> sitk.Image:
    return sitk.Extract(image, [*image.GetSize()[:3], 0]) if image.GetDimension() == 4 else image


def _as_float32(image: sitk.Image) -> sitk.Image:
    darkest, brightest = sitk.MinimumMaximum(image)
    contrast = float(brightest) - darkest
    offset = max(abs(darkest), abs(brightest))
    # A constant image, or one with values that are not finite, is refused by what it is.
    is_held = CONTRASTS[0] <= contrast <= CONTRASTS[1] and offset <= MAX_OFFSET * contrast
    if is_held or not 0 < contrast < math.inf:
        return sitk.Cast(image, sitk.sitkFloat32)
    return sitk.Cast(sitk.ShiftScale(sitk.Cast(image, sitk.sitkFloat64), -darkest, 1000 / contrast), sitk.sitkFloat32)


def _check_grid(image: sitk.Image | sitk.ImageFileReader, name: str) -> None:
    """Dimensions, components, size, spacing and direction, of an image or of a header that has been read."""
    size, dimension = image.GetSize(), image.GetDimension()
    if dimension < 3:
        raise UserError(f"{name} is a {dimension}D image. Give a 3D scan, or the folder of its DICOM slices.")
    if dimension > 3 and (dimension > 4 or size[3] > 1):
        raise UserError(
            f"{name} is {dimension}D, with {math.prod(size[3:])} frames. Save one frame of it as a 3D scan."
        )
    pixel_type = sitk.GetPixelIDValueAsString(image.GetPixelIDValue())
    components = (
        image.GetNumberOfComponents()
        if isinstance(image, sitk.ImageFileReader)
        else image.GetNumberOfComponentsPerPixel()
    )
    # "complex of 32-bit float", or "vector of", which may be one of a single component.
    if components > 1 or " of " in pixel_type:
        raise UserError(
            f"{name} has several values in each voxel ({pixel_type}), as a colour picture has. "
            f"Give a scan with one intensity per voxel."
        )
    check_voxel_count(size, name)
    spacing_mm = image.GetSpacing()[:3]
    if not all(0 < step < math.inf for step in spacing_mm):
        raise bad_spacing(name, _times(f"{step:g}" for step in spacing_mm))
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    # A NaN makes the comparison false, too.
    if not np.abs(direction.T @ direction - np.eye(3)).max() < DIRECTION_TOLERANCE:
        raise bad_direction(name)
    if not np.isfinite(image.GetOrigin()).all():
        raise UserError(f"The header of {name} has an origin that is not a number. Export the scan again.")


def _check_values(voxels: np.ndarray, name: str) -> None:
    """Refuses voxels, float32, (k, j, i), that are no MR intensities."""
    finite = np.isfinite(voxels)
    if not finite.all():
        raise not_finite(name, voxels.size - np.count_nonzero(finite), voxels.size)
    if voxels.min() == voxels.max():
        raise UserError(
            f"{name} has the same value ({voxels.min():g}) in every voxel. Give a scan with an image in it."
        )
    # A few thousand voxels tell a scan at once; only what looks like a mask is searched whole.
    if np.unique(voxels.ravel()[::97]).size <= MAX_MASK_VALUES:
        n_values = np.unique(voxels).size
        if n_values <= MAX_MASK_VALUES:
            raise UserError(f"{name} has only {n_values} different values: it is a mask, not a scan. Give the MR scan.")
    air_share = np.count_nonzero((voxels > AIR_HU[0]) & (voxels < AIR_HU[1])) / voxels.size
    if air_share >= CT_AIR_SHARE:
        raise UserError(
            f"{name} looks like a CT: {air_share:.0%} of its voxels are about -1000, as air is in Hounsfield units. "
            f"Give a T2-weighted MR scan."
        )
