"""Finding, reading and checking scans.

ITK mends or ignores much that is wrong with a file: a truncated NIfTI file reads as zeros, a spacing of 0 as 1 mm. What
it would pass over is checked here, from the header and before the pixels are read.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.dicom import MODALITY, check_voxel_count, read_series
from vnet_segmentation.errors import ExitCode, UserError

sitk.ProcessObject.SetGlobalWarningDisplay(False)

SCAN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Files that a batch takes for scans. A single scan may be any file that SimpleITK reads."""

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

DIRECTION_TOLERANCE = 1e-3
"""Largest error of the direction cosines' dot products; rounded headers are wrong by about 1e-4."""

MAX_DEFLATE_RATIO = 1032
"""No deflate stream, as in gzip, unpacks to more than this many times its size."""

_CHUNK_BYTES = 1 << 20


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
    path = Path(path)
    if path.is_dir():
        image = read_series(path, series)
    elif series is not None:
        raise UserError(
            f"--series chooses a series in a folder of DICOM slices, and {path.name} is not a folder. "
            f"Give the folder, or leave --series out.",
            ExitCode.USAGE,
        )
    elif path.name.endswith(MASK_SUFFIX) and path.is_file():
        raise UserError(f"{path.name} is a segmentation, not a scan. Give the MR scan it was drawn on.")
    else:
        image = read_volume(path)
    return check_scan(image, path.resolve().name)


def check_scan(image: sitk.Image, name: str) -> sitk.Image:
    """Refuses an image that cannot be a prostate MR scan.

    Args:
        image: image of any pixel type; a fourth dimension of one frame is dropped.
        name: what the messages call it.

    Returns:
        The same image as float32; `image` itself is not changed.

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
    image = sitk.Cast(image, sitk.sitkFloat32)
    _check_values(sitk.GetArrayViewFromImage(image), name)
    return image


def read_volume(path: str | os.PathLike[str]) -> sitk.Image:
    """Reads a file with one 3D volume, scan or mask, after checking its header.

    Returns:
        3D image with one value per voxel, in the file's pixel type.

    Raises:
        UserError: a file that is missing, empty, of no known format, damaged or incomplete; that is 2D, 4D or has
            several values per voxel; that has more than `dicom.MAX_VOXELS` voxels by its header (no pixel is read
            then); whose spacing is not positive or whose direction is not orthonormal.
    """
    path = Path(path)
    name = path.name
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {problem}. Check the path.")
    if path.stat().st_size == 0:
        raise UserError(f"{name} is empty (0 bytes). Copy, download or export it again.")
    try:
        nifti = _read_nifti_header(path)
        if nifti is not None:
            nifti.check(name)
        meta_image = _read_meta_image_header(path)
        if meta_image is not None:
            meta_image.check(name)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_grid(reader, name)
        _check_nrrd_spacing(path, name)
        if not _is_complete(path, reader, nifti, meta_image):
            raise UserError(_damaged(name))
        return _single_frame(reader.Execute())
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}. Check the file and its rights.") from error
    except RuntimeError as error:
        raise UserError(_explain(str(error), name)) from error


def find_scans(folder: str | os.PathLike[str]) -> list[Path]:
    """The scans in a folder and its subfolders, sorted.

    Files of `SCAN_SUFFIXES`, and each folder that holds DICOM files as one path. Hidden files and folders are passed
    over, and so are masks and probability volumes (`MASK_STEMS`, `MASK_SUFFIX`).

    Raises:
        UserError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Check the path of the folder with the scans.", ExitCode.USAGE)
    scans = []
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = [one for one in subfolders if not one.startswith(".")]
        visible = [Path(directory, file) for file in files if not file.startswith(".")]
        scans += [path for path in visible if _is_scan_name(path.name)]
        if any(_is_dicom(path) for path in visible if not path.name.lower().endswith(SCAN_SUFFIXES)):
            scans.append(Path(directory))
    return sorted(scans)


def scan_stem(path: str | os.PathLike[str]) -> str:
    """The scan's name without its suffix: "case" for "case.nii.gz", "case.seg.nrrd", or the DICOM folder "case"."""
    name = Path(path).name or Path(path).resolve().name
    for suffix in (MASK_SUFFIX, *SCAN_SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _is_scan_name(name: str) -> bool:
    name = name.lower()
    return name.endswith(SCAN_SUFFIXES) and not (name.endswith(MASK_SUFFIX) or scan_stem(name).endswith(MASK_STEMS))


def _is_dicom(path: Path) -> bool:
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
    if components > 1 or "complex" in pixel_type:
        raise UserError(
            f"{name} has several values in each voxel ({pixel_type}), as a colour picture has. "
            f"Give a scan with one intensity per voxel."
        )
    check_voxel_count(size, name)
    spacing_mm = image.GetSpacing()[:3]
    if not all(0 < step < math.inf for step in spacing_mm):
        raise UserError(_bad_spacing(name, _times(f"{step:g}" for step in spacing_mm)))
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    # A NaN makes the comparison false, too.
    if not np.abs(direction.T @ direction - np.eye(3)).max() < DIRECTION_TOLERANCE:
        raise UserError(_bad_direction(name))
    if not np.isfinite(image.GetOrigin()).all():
        raise UserError(f"The header of {name} has an origin that is not a number. Export the scan again.")


def _bad_spacing(name: str, spacing: str) -> str:
    return f"The header of {name} has an impossible voxel spacing ({spacing} mm). Correct it or export the scan again."


def _bad_direction(name: str) -> str:
    return (
        f"The header of {name} has axes that are not at right angles to each other, or not of length 1. "
        f"Correct its direction, or resample the scan to a straight grid."
    )


def _damaged(name: str) -> str:
    return f"{name} is damaged or incomplete. Copy, download or export it again."


def _explain(itk_error: str, name: str) -> str:
    """A sentence for an error of ITK's readers."""
    if "orthonormal" in itk_error or "determinant is 0" in itk_error:
        return _bad_direction(name)
    if "spacing (0) invalid" in itk_error:
        return _bad_spacing(name, "0")
    if "Unable to determine ImageIO" in itk_error:
        return f"{name} is no image that can be read, or it is damaged. Give a NIfTI, NRRD, MetaImage or DICOM scan."
    return _damaged(name)


def _check_values(voxels: np.ndarray, name: str) -> None:
    """Refuses voxels, float32, (k, j, i), that are no MR intensities."""
    finite = np.isfinite(voxels)
    if not finite.all():
        share = 1 - np.count_nonzero(finite) / voxels.size
        raise UserError(
            f"{name} has voxels that are not a number or infinite ({share:.2g} of all). "
            f"Replace them, or export the scan again."
        )
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


def _check_nrrd_spacing(path: Path, name: str) -> None:
    """Refuses a 3D NRRD file without a spacing along some axis, which ITK reads as 1 mm."""
    with open(path, "rb") as file:
        if file.read(4) != b"NRRD":
            return
        header = file.read(_CHUNK_BYTES).partition(b"\n\n")[0].decode("latin-1")
    for line in header.splitlines():
        field, _, value = line.partition(":")
        steps = value.lower().split()
        if field in ("spacings", "space directions") and len(steps) == 3 and {"none", "nan"} & set(steps):
            raise UserError(_bad_spacing(name, value.strip()))


def _is_complete(
    path: Path, reader: sitk.ImageFileReader, nifti: _NiftiHeader | None, meta_image: _MetaImageHeader | None
) -> bool:
    """Whether a file has the data that its header announces, found out without holding them in memory."""
    if nifti is not None:
        return nifti.data_path(path).is_file() and _holds(nifti.data_path(path), nifti.n_bytes)
    # "16-bit signed integer" and the like.
    bits = int(sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()).partition("-bit")[0])
    n_bytes = math.prod(reader.GetSize()) * bits // 8
    if meta_image is not None:
        return meta_image.is_complete(path, n_bytes)
    # ITK itself finds a shorter NRRD file out, but after it has set aside the memory.
    return not path.name.lower().endswith(".nrrd") or n_bytes <= path.stat().st_size * MAX_DEFLATE_RATIO


def _holds(path: Path, n_bytes: int) -> bool:
    """Whether a file, unpacked if it is gzipped, has so many bytes."""
    if not _is_gzip(path):
        return path.stat().st_size >= n_bytes
    seen = 0
    try:
        with gzip.open(path) as file:
            # On to the end if that is near: only there are the stream's length and checksum compared.
            while seen <= n_bytes + _CHUNK_BYTES and (chunk := file.read(_CHUNK_BYTES)):
                seen += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return seen >= n_bytes


def _inflates_to(file: BinaryIO, n_bytes: int) -> bool:
    """Whether a zlib stream is whole and of this length; on a damaged one ITK's MetaImage reader crashes."""
    # 32 + 15: a header of zlib or of gzip, as MetaImage allows.
    stream = zlib.decompressobj(wbits=47)
    seen = 0
    try:
        while not stream.eof and seen <= n_bytes and (packed := stream.unconsumed_tail or file.read(_CHUNK_BYTES)):
            seen += len(stream.decompress(packed, _CHUNK_BYTES))
    except zlib.error:
        return False
    return stream.eof and seen == n_bytes


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


@dataclass(frozen=True)
class _MetaImageHeader:
    """The fields of a MetaImage header that say where the data are and how long."""

    fields: dict[str, str]
    length: int
    """Bytes before the data, where they are in the same file."""

    def check(self, name: str) -> None:
        """Raises `UserError` where the size is missing or makes ITK crash, or the data are not named."""
        try:
            sizes = [int(size) for size in self.fields["DimSize"].split()]
            consistent = len(sizes) == int(self.fields["NDims"]) and min(sizes) > 0
        except (KeyError, ValueError):
            consistent = False
        if not consistent or "ElementDataFile" not in self.fields:
            raise UserError(_damaged(name))

    def is_complete(self, path: Path, n_bytes: int) -> bool:
        """Whether the data are there, as `n_bytes` of voxels, unpacked."""
        data_file = self.fields["ElementDataFile"]
        if data_file.isprintable() and (data_file.startswith("LIST") or "%" in data_file):
            # A file for each slice, which ITK looks for.
            return True
        data_path, offset = (path, self.length) if data_file.upper() == "LOCAL" else (path.parent / data_file, 0)
        if not data_path.is_file():
            return False
        if self.fields.get("CompressedData", "False").lower() != "true":
            return data_path.stat().st_size >= offset + n_bytes
        with open(data_path, "rb") as file:
            file.seek(offset)
            return _inflates_to(file, n_bytes)


def _read_meta_image_header(path: Path) -> _MetaImageHeader | None:
    """The header of a MetaImage file, None for any other file."""
    if not path.name.lower().endswith((".mha", ".mhd")):
        return None
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        # The line that names the data is the header's last.
        while "ElementDataFile" not in fields and (line := file.readline(4096)):
            key, _, value = line.decode("utf-8", "surrogateescape").partition("=")
            fields[key.strip()] = value.strip()
        return _MetaImageHeader(fields, file.tell())


# Offset and struct format of the fields that are checked, by the size of the header, which is its first field:
# nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
_NIFTI_FIELDS = {
    348: {"magic": (344, "4s"), "dim": (40, "8h"), "bitpix": (72, "h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
          "qform_code": (252, "h"), "quatern": (256, "3f"), "sform_code": (254, "h"), "srow": (280, "12f")},
    540: {"magic": (4, "8s"), "dim": (16, "8q"), "bitpix": (14, "h"), "pixdim": (104, "8d"), "vox_offset": (168, "q"),
          "qform_code": (344, "i"), "quatern": (352, "3d"), "sform_code": (348, "i"), "srow": (400, "12d")},
}  # fmt: skip


@dataclass(frozen=True)
class _NiftiHeader:
    """The fields of a NIfTI header that ITK silently repairs where they are wrong."""

    magic: tuple[bytes]
    dim: tuple[int, ...]
    bitpix: tuple[int]
    pixdim: tuple[float, ...]
    vox_offset: tuple[float]
    qform_code: tuple[int]
    quatern: tuple[float, ...]
    sform_code: tuple[int]
    srow: tuple[float, ...]

    @property
    def in_one_file(self) -> bool:
        return self.magic[0].startswith(b"n+")

    @property
    def n_bytes(self) -> int:
        """Bytes of the file with the voxels, unpacked. ITK's header has another pixel type where values are scaled."""
        offset = int(self.vox_offset[0]) if self.in_one_file else 0
        return offset + math.prod(self.dim[1 : self.dim[0] + 1]) * self.bitpix[0] // 8

    def data_path(self, path: Path) -> Path:
        """The file with the voxels: the same, or the .img beside the .hdr."""
        if self.in_one_file:
            return path
        plain = path.with_suffix(".img")
        return plain if plain.is_file() else path.with_suffix(".img.gz")

    def check(self, name: str) -> None:
        """Raises `UserError` where sizes, spacing or the s-form are impossible."""
        n_axes = self.dim[0]
        if not 1 <= n_axes <= 7 or min(self.dim[1 : n_axes + 1]) < 1 or not math.isfinite(self.vox_offset[0]):
            raise UserError(_damaged(name))
        # The spacing along an axis of one voxel means nothing, and is often left at 0.
        steps_mm = [step for step, n in zip(self.pixdim[1:4], self.dim[1 : min(n_axes, 3) + 1], strict=False) if n > 1]
        if not all(0 < step < math.inf for step in steps_mm):
            raise UserError(_bad_spacing(name, _times(f"{step:g}" for step in self.pixdim[1:4])))
        axes = np.array(self.srow).reshape(3, 4)[:, :3]
        # The volume spanned by unit vectors along the axes is 0 where they lie in one plane.
        lengths = np.linalg.norm(axes, axis=0)
        singular = not (np.isfinite(self.srow).all() and abs(np.linalg.det(axes)) > 1e-3 * np.prod(lengths))
        if (self.sform_code[0] > 0 and singular) or (self.qform_code[0] > 0 and not np.isfinite(self.quatern).all()):
            raise UserError(_bad_direction(name))


def _read_nifti_header(path: Path) -> _NiftiHeader | None:
    """The header of a NIfTI file, None for any other file."""
    header_path = path.with_suffix(".hdr") if path.suffix.lower() == ".img" else path
    try:
        with gzip.open(header_path) if _is_gzip(header_path) else open(header_path, "rb") as file:
            raw = file.read(540)
    except (EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError):
        return None
    for order in "<>":
        size = struct.unpack(f"{order}i", raw[:4])[0] if len(raw) >= 4 else 0
        if size in _NIFTI_FIELDS and len(raw) >= size:
            fields: dict[str, Any] = {
                field: struct.unpack_from(order + layout, raw, offset)
                for field, (offset, layout) in _NIFTI_FIELDS[size].items()
            }
            # Without these letters it is an Analyze file, which has none of the fields.
            return _NiftiHeader(**fields) if fields["magic"][0][:2] in (b"n+", b"ni") else None
    return None
