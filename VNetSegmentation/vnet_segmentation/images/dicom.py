"""Which of the DICOM series in a folder is the scan, and reading it."""

from __future__ import annotations

import mmap
import os
import re
import struct
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import UserError
from vnet_segmentation.paths import check_name, walk

MAX_VOXELS = 512**3
"""Voxels of the largest scan that is read (134 million: 0.5 GB as float32); a prostate MR has 1 to 60 million."""

MIN_SERIES_SLICES = 10
"""An axial T2 series with fewer slices is a scout, and is not chosen unasked."""

POSITION_TOLERANCE_MM = 0.01
GAP_TOLERANCE = 0.1
"""Distances between slices may differ by this part of their median, which rounded positions explain."""
SHIFT_TOLERANCE_MM = 1.0
"""Sideways shift over the whole stack that is taken for rounding; ITK would straighten a larger one silently."""

SOP_CLASS, MODALITY, DESCRIPTION, PROTOCOL = "0008|0016", "0008|0060", "0008|103e", "0018|1030"
SERIES_NUMBER, POSITION, ORIENTATION = "0020|0011", "0020|0032", "0020|0037"
PLANE_POSITIONS, PLANE_ORIENTATIONS = "0020|9113", "0020|9116"
"""Sequences of an enhanced file, with the position and the orientation of its frames."""

_IMPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2"
_UNREAD_SYNTAXES = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99")
"""Big endian and deflated."""
_LONG_VALUES = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations with a length of four bytes after two empty ones."""
_HEADER_VALUES = (b"AE", b"OB", b"SH", b"UI", b"UL", b"UR")
"""Value representations of the elements of group 2, by the standard's part 10."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAX_HEADER_VALUE = 64 * 2**20
"""Bytes; what is cut off may announce so much, and that much memory does not hurt."""

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
    damaged = _damaged_files(chosen)
    if damaged:
        raise UserError(
            f"{name} has files that are damaged or incomplete ({len(damaged)}, for instance {min(damaged)}). "
            f"Export the series again."
        )
    try:
        if len(chosen.files) == 1:
            header = _read_header(chosen.files[0])
            check_frames(header, name)
            return header.Execute()
        slices = _sorted_slices(chosen, name)
        # ITK gives all slices the first one's type, in which others, say signed or of another slope, would wrap round.
        is_mixed = len({header.GetPixelIDValue() for header in slices}) > 1
        files = [header.GetFileName() for header in slices]
        return sitk.ReadImage(files, sitk.sitkFloat64 if is_mixed else sitk.sitkUnknown)
    except RuntimeError as error:
        raise UserError(f"{name} cannot be read: a file is damaged or incomplete. Export the series again.") from error


def check_frames(header: sitk.ImageFileReader, name: str) -> None:
    """Refuses a DICOM file of several frames unless each lies where the grid has it that ITK makes of them.

    ITK takes the frames in the file's order, and where they are not evenly spaced it takes 1 mm for every spacing.

    Args:
        header: of a file of any format, read; its frames are along the third axis.
        name: what the messages call it.

    Raises:
        UserError: frames in another order than they lie in, doubled, missing, turned or unevenly spaced (already by
            rounding to 0.01 mm), or that do not say where they lie.
    """
    n_frames = header.GetSize()[2]
    if n_frames == 1 or header.GetImageIOFromFileName(header.GetFileName()) != "GDCMImageIO":
        return
    positions_mm = _numbers_in_sequences(header.GetFileName(), PLANE_POSITIONS, POSITION)
    orientations = _numbers_in_sequences(header.GetFileName(), PLANE_ORIENTATIONS, ORIENTATION)
    if {len(p) for p in positions_mm} != {3} or {len(o) for o in orientations} != {6} or len(positions_mm) != n_frames:
        raise UserError(
            f"{name} does not say where each of its {n_frames} frames lies. Export it as a file for each slice."
        )
    axes = np.reshape(header.GetDirection(), (3, 3)).T
    step_mm = header.GetSpacing()[2]
    grid_mm = header.GetOrigin() + np.arange(n_frames)[:, None] * step_mm * axes[2]
    if not (
        np.allclose(positions_mm, grid_mm, rtol=0, atol=GAP_TOLERANCE * abs(step_mm))
        and np.allclose(orientations, axes[:2].ravel(), atol=1e-3)
    ):
        raise UserError(
            f"The {n_frames} frames of {name} are no even stack: they are doubled, missing, turned, unevenly spaced or "
            f"in another order than they lie in. Export it as a file for each slice."
        )


def _numbers_in_sequences(file: str, sequence: str, element: str) -> list[list[float]]:
    """The numbers of an element in each sequence whose first item begins with it, which SimpleITK does not tell.

    None are found in a file that is big endian or deflated.
    """
    sequence_tag, element_tag = (
        re.escape(struct.pack("<HH", *(int(part, 16) for part in key.split("|")))) for key in (sequence, element)
    )
    # Sequence, item and element, each with its length; with value representations ("SQ", "DS") or without.
    pattern = re.compile(
        sequence_tag + rb"(?:SQ\0\0)?.{4}\xfe\xff\x00\xe0.{4}" + element_tag + rb"(?:DS(..)|(..)\0\0)", re.DOTALL
    )
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = [(match.end(), int.from_bytes(match[1] or match[2], "little")) for match in pattern.finditer(content)]
        return [_split_numbers(content[at : at + length].decode("latin-1")) for at, length in found]


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
            f"{problem} ({listed}). Put the one to segment in a folder of its own, or choose it by its number or UID."
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
            if _would_fill_memory(path):
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


def _would_fill_memory(path: Path) -> bool:
    """Whether an element claims to be larger than its file by far: GDCM takes the memory first, up to 4 GB, and keeps
    it. So it does where the type of an element of the file's own header is none.

    Looks at the elements before the voxels, not into sequences. What is merely cut off is left to GDCM.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(128)
        if file.read(4) != b"DICM":
            return False
        syntax = b""
        while len(head := file.read(8)) == 8:
            group, element, length = struct.unpack("<HHI", head)
            if group != 2 and syntax in _UNREAD_SYNTAXES:
                return False
            if group == 2 or syntax != _IMPLICIT_LITTLE_ENDIAN:
                # The value representation, two letters, takes the place of half the length or is followed by it.
                length = struct.unpack("<H", head[6:])[0]
                if group == 2 and head[4:6] not in _HEADER_VALUES:
                    return True
                if head[4:6] in _LONG_VALUES:
                    length = int.from_bytes(file.read(4), "little")
            if length == _UNDEFINED_LENGTH:
                return False
            if length > size - file.tell() and length > _MAX_HEADER_VALUE:
                return True
            if (group, element) == (0x7FE0, 0x0010):
                return False
            if (group, element) == (0x0002, 0x0010):
                syntax = file.read(length).rstrip(b"\0 ")
            else:
                file.seek(length, os.SEEK_CUR)
    return False


def _describe(uid: str, files: tuple[str, ...]) -> Series | None:
    """What the header of a series' first file tells; None where it holds no image (a report, a plan)."""
    for file in files:
        check_name(file)
    try:
        header = _read_header(files[0])
    except RuntimeError:
        return None
    columns, rows, frames = header.GetSize()
    description = _tag(header, DESCRIPTION) or _tag(header, PROTOCOL)
    orientation = _numbers(header, ORIENTATION)
    normal = np.cross(orientation[:3], orientation[3:]) if len(orientation) == 6 else None
    return Series(
        uid=uid,
        number=_tag(header, SERIES_NUMBER),
        description=description,
        modality=_tag(header, MODALITY).upper(),
        plane="unknown" if normal is None else ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))],
        # An enhanced DICOM file holds the whole stack as frames.
        size=(columns, rows, frames if len(files) == 1 else len(files)),
        files=tuple(files),
    )


def _damaged_files(series: Series) -> list[str]:
    """Names of files of the series that GDCM could not read, and so left out without a word.

    Recognised by the series' UID and by its SOP class, which a report that refers to the series does not have.
    """
    known = {Path(file).name for file in series.files}
    sop_class, uid = (
        text.encode("utf-8", "surrogateescape") for text in (_tag(_read_header(series.files[0]), SOP_CLASS), series.uid)
    )
    damaged = []
    for path in Path(series.files[0]).parent.iterdir():
        if path.name not in known and os.path.isfile(path):
            with open(path, "rb") as file:
                start = file.read(1 << 16)
            # The SOP class is the second or third element after the preamble and the letters DICM.
            if start[128:132] == b"DICM" and sop_class in start[:256] and uid in start:
                damaged.append(path.name)
    return damaged


def _sorted_slices(series: Series, name: str) -> list[sitk.ImageFileReader]:
    """The headers of the files along the stack's normal; refuses a stack that is not an even grid."""
    headers = [_read_header(file) for file in series.files]
    positions = [_numbers(header, POSITION) for header in headers]
    orientations = [_numbers(header, ORIENTATION) for header in headers]
    if any(len(p) != 3 for p in positions) or any(len(o) != 6 for o in orientations):
        raise UserError(f"{name} does not say where its slices lie. Export it again from the scanner or the archive.")
    spacings_mm = [header.GetSpacing()[:2] for header in headers]
    kinds = {(header.GetSize(), _tag(header, MODALITY).upper()) for header in headers}
    if (
        kinds != {((*series.size[:2], 1), series.modality)}
        or not np.allclose(spacings_mm, spacings_mm[0], rtol=1e-3)
        or not np.allclose(orientations, orientations[0], atol=1e-3)
    ):
        raise UserError(
            f"The slices of {name} differ in size, pixel spacing, orientation or modality. Choose another series."
        )
    normal = np.cross(orientations[0][:3], orientations[0][3:])
    depths_mm = np.array(positions) @ normal
    order = np.argsort(depths_mm, kind="stable")
    _check_even(depths_mm[order], name)
    way_mm = np.array(positions[order[-1]]) - np.array(positions[order[0]])
    shift_mm = float(np.linalg.norm(way_mm - (way_mm @ normal) * normal))
    if shift_mm > SHIFT_TOLERANCE_MM:
        raise UserError(
            f"The slices of {name} are shifted sideways by {shift_mm:.1f} mm over the stack. "
            f"Resample it to a straight grid first."
        )
    return [headers[i] for i in order]


def _check_even(depths_mm: np.ndarray, name: str) -> None:
    gaps_mm = np.diff(depths_mm)
    usual_mm = float(np.median(gaps_mm))
    if gaps_mm.min() < POSITION_TOLERANCE_MM:
        raise UserError(
            f"{name} has several images at the same place, as a dynamic or diffusion series or a double export has. "
            f"Choose another series, or export it again."
        )
    if gaps_mm.max() > 1.5 * usual_mm:
        raise UserError(
            f"{name} misses slices: a gap of {gaps_mm.max():.1f} mm where slices are {usual_mm:.1f} mm apart. "
            f"Export the whole series again."
        )
    if np.abs(gaps_mm - usual_mm).max() > GAP_TOLERANCE * usual_mm:
        raise UserError(
            f"The slices of {name} are unevenly spaced, {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm apart. "
            f"Resample it to an even grid first."
        )


def _modality_name(modality: str) -> str:
    return "a CT" if modality == "CT" else f"of modality {modality}"


def _read_header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _tag(header: sitk.ImageFileReader, key: str) -> str:
    return header.GetMetaData(key).strip(" \0") if header.HasMetaDataKey(key) else ""


def _numbers(header: sitk.ImageFileReader, key: str) -> list[float]:
    """The numbers of a tag, empty where it is missing or no number."""
    return _split_numbers(_tag(header, key))


def _split_numbers(text: str) -> list[float]:
    """Backslash-separated numbers, empty where one is none."""
    try:
        return [float(number) for number in text.strip(" \0").split("\\")]
    except ValueError:
        return []
