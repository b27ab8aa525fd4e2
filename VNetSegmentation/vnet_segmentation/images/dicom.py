"""Which of the DICOM series in a folder is the scan, and reading it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.dicom_files import (
    DESCRIPTION,
    MODALITY,
    ORIENTATION,
    PROTOCOL,
    SERIES_NUMBER,
    damaged_files,
    numbers,
    read_header,
    tag,
    would_fill_memory,
)
from vnet_segmentation.images.dicom_stack import check_frames, sorted_slices
from vnet_segmentation.paths import check_name, walk

MAX_VOXELS = 512**3
"""Voxels of the largest scan that is read (134 million: 0.5 GB as float32); a prostate MR has 1 to 60 million."""

MIN_SERIES_SLICES = 10
"""An axial T2 series with fewer slices is a scout, and is not chosen unasked."""

# "t2_tse_tra", "AX T2 FRFSE", "T2W": but not T2*, FLAIR, and no map computed from T2 weighted images.
_T2 = re.compile(r"(?<![a-z0-9])t2", re.IGNORECASE)
_OTHER = re.compile(
    r"(?<![a-z0-9])(adc|dwi|diff|t1|dce|t2[\s_-]*\*|(ct|t2[\s_-]*star|(t2[\s_-]*)?(map(s|ping)?|flair))(?![a-z]))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Series:
    """One image series of a folder."""

    uid: str
    number: str
    """Series number, "" where the files give none."""
    description: str
    modality: str
    plane: str
    """"axial", "sagittal" or "coronal", by the nearest body axis; "unknown" without an orientation."""
    size: tuple[int, int, int]
    """Columns, rows, slices."""
    files: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(self.files[0]).parent

    @property
    def is_axial_t2(self) -> bool:
        return (
            self.modality in ("MR", "")
            and self.plane == "axial"
            and self.size[2] >= MIN_SERIES_SLICES
            and names_t2(self.description) is True
        )

    def __str__(self) -> str:
        number = self.number or self.uid
        description = self.description or "no description"
        return f"{number}: {description}, {self.modality or 'modality unknown'}, {self.size[2]} slices, {self.plane}"


def names_t2(name: str) -> bool | None:
    """Whether the name of a series or a scan is that of a T2-weighted one; None if it does not tell.

    Words count, not letters within them: the "t1" of "patient1_t2" is none.
    """
    if _OTHER.search(name):
        return False
    return True if _T2.search(name) else None


def check_voxel_count(size: tuple[int, ...], name: str) -> None:
    """Refuses a scan by the size that its header announces, before any pixel is read.

    Raises:
        UserError: more than `MAX_VOXELS` voxels.
    """
    if np.prod(size, dtype=float) > MAX_VOXELS:
        shape = " x ".join(map(str, size))
        raise UserError(
            f"{name} is too large: {shape} voxels, the limit is {MAX_VOXELS // 10**6} million. "
            f"Crop it around the prostate or resample it."
        )


def read_series(
    folder: str | os.PathLike[str], series: str | None = None, subfolders: bool = True
) -> tuple[sitk.Image, str]:
    """Reads the scan in a folder of DICOM files.

    Without `series`, the folder's only series is read, or its only axial T2 series with at least
    `MIN_SERIES_SLICES` slices.

    Args:
        folder: folder of DICOM slices, of one or of several series.
        series: number or UID of the series to read.
        subfolders: whether those count too.

    Returns:
        The stack as SimpleITK reads it, in the files' pixel type, or as float64 where they differ in it; 2D slices are
        sorted by position. And which series that is, for a person.

    Raises:
        UserError: no series, none or several that fit (the message lists them), a modality other than MR, missing,
            doubled or unevenly spaced slices, frames out of order, too many voxels, or files that are damaged or cannot
            be read.
    """
    folder = Path(folder)
    try:
        chosen = choose_series(folder, series, subfolders)
        return _read_chosen(folder, chosen), f"{chosen}, in {chosen.folder}"
    except OSError as error:
        file = Path(error.filename or folder).name
        raise UserError(f"{file} cannot be read: {error.strerror or error}. Check the file and its rights.") from error


def _read_chosen(folder: Path, chosen: Series) -> sitk.Image:
    name = f"Series {chosen.number or chosen.uid} in {folder.resolve().name}"
    if chosen.modality not in ("MR", ""):
        raise UserError(f"{name} is {_modality_name(chosen.modality)}, not an MR. Give a T2-weighted MR scan.")
    check_voxel_count(chosen.size, name)
    damaged = damaged_files(chosen.files, chosen.uid)
    if damaged:
        raise UserError(
            f"{name} has files that are damaged or incomplete ({len(damaged)}, for instance {min(damaged)}). "
            f"Export the series again."
        )
    try:
        if len(chosen.files) == 1:
            header = read_header(chosen.files[0])
            check_frames(header, name)
            return header.Execute()
        slices = sorted_slices(chosen.files, name)
        # ITK gives all slices the first one's type, in which others, say signed or of another slope, would wrap round.
        is_mixed = len({header.GetPixelIDValue() for header in slices}) > 1
        files = [header.GetFileName() for header in slices]
        return sitk.ReadImage(files, sitk.sitkFloat64 if is_mixed else sitk.sitkUnknown)
    except RuntimeError as error:
        raise UserError(f"{name} cannot be read: a file is damaged or incomplete. Export the series again.") from error


def choose_series(folder: Path, series: str | None, subfolders: bool = True) -> Series:
    """The series that `read_series` reads; see there."""
    name = folder.resolve().name
    found = find_series(folder, subfolders)
    if not found:
        raise UserError(f"The folder {name} holds no DICOM images. Give a scan file or a folder of DICOM slices.")
    if series is not None:
        fitting = [one for one in found if series in (one.uid, one.number)]
        problem = f"{len(fitting) or 'None'} of the DICOM series in {name} has the number or UID {series}"
    else:
        fitting = found if len(found) == 1 else [one for one in found if one.is_axial_t2]
        problem = f"{name} holds {len(found)} DICOM series, {len(fitting) or 'none'} of them known to be axial T2"
    if len(fitting) != 1:
        # Where a number is not unique, only the UID tells the series apart.
        doubled = len({one.number for one in found}) < len(found)
        several = len({one.folder for one in found}) > 1
        listed = "; ".join(
            f"{one}{f' (UID {one.uid})' if doubled and one.number else ''}{f', in {one.folder}' if several else ''}"
            for one in found
        )
        raise UserError(
            f"{problem} ({listed}). Put the one to segment in a folder of its own, or choose it by its number or UID.",
            argument="series",
        )
    return fitting[0]


def find_series(folder: Path, subfolders: bool = True) -> list[Series]:
    """All image series in a folder and, if they count, its subfolders, by folder and number.

    The same UID in two folders is two.

    Raises:
        UserError: a folder that cannot be read; a file that is damaged in such a way that its folder cannot be read, or
            would fill the memory; or a name that is not Unicode.
    """
    found = []
    for directory, _, files in walk(folder) if subfolders else islice(walk(folder), 1):
        for name in sorted(files):
            path = Path(directory) / name
            if not os.path.isfile(path):
                # GDCM waits for ever for what comes out of a pipe, and loses slices over a link to nothing.
                raise UserError(f"{path} is not a file. Remove it from the folder.")
            if would_fill_memory(path):
                raise UserError(f"The DICOM file {name} is damaged. Export the series again.")
        check_name(directory)
        try:
            in_directory = [
                _describe(uid, sitk.ImageSeriesReader.GetGDCMSeriesFileNames(directory, uid))
                for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(directory)
            ]
        except RuntimeError as error:
            raise UserError(
                f"The folder {Path(directory).name} has a DICOM file that is damaged. Export the series again."
            ) from error
        images = [one for one in in_directory if one is not None]
        found += sorted(images, key=lambda one: (len(one.number), one.number, one.uid))
    return found


def _describe(uid: str, files: tuple[str, ...]) -> Series | None:
    """What the header of a series' first file tells; None where it holds no image (a report, a plan)."""
    for file in files:
        check_name(file)
    try:
        header = read_header(files[0])
    except RuntimeError:
        return None
    columns, rows, frames = header.GetSize()
    description = tag(header, DESCRIPTION) or tag(header, PROTOCOL)
    orientation = numbers(header, ORIENTATION)
    normal = np.cross(orientation[:3], orientation[3:]) if len(orientation) == 6 else None
    return Series(
        uid=uid,
        number=tag(header, SERIES_NUMBER),
        description=description,
        modality=tag(header, MODALITY).upper(),
        plane="unknown" if normal is None else ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))],
        # An enhanced DICOM file holds the whole stack as frames.
        size=(columns, rows, frames if len(files) == 1 else len(files)),
        files=tuple(files),
    )


def _modality_name(modality: str) -> str:
    return "a CT" if modality == "CT" else f"of modality {modality}"
