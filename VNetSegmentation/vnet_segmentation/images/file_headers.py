"""Checks of what a file announces, for the formats of which ITK mends or ignores much that is wrong.

A truncated NIfTI file reads as zeros, and so does a NaN in it; a spacing of 0 reads as 1 mm; a damaged MetaImage file
may crash the process. What ITK would pass over is looked for here, before it reads the pixels, and without holding them
in memory.
"""

from __future__ import annotations

import gzip
import math
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.apart import header_of, other_of_pair
from vnet_segmentation.images.file_errors import bad_direction, bad_spacing, damaged, not_finite

MAX_DEFLATE_RATIO = 1032
"""No deflate stream, as in gzip, unpacks to more than this many times its size."""

SFORM_TOLERANCE = 0.01
"""Part by which a NIfTI file's two statements of its voxels' sides may differ."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileHeader:
    """The header of a file of any format; what ITK itself checks well enough needs no subclass."""

    path: Path
    name: str
    """What the messages call it."""

    def check(self) -> None:
        """To be called before ITK reads the header.

        Raises:
            UserError: ITK would mend what it says, or crash.
        """

    def check_data(self, reader: sitk.ImageFileReader) -> None:
        """To be called before ITK reads the pixels.

        Args:
            reader: has read the header, of a size and pixel type that are fit for a scan.

        Raises:
            UserError: the file has less data than the header announces, or data that ITK would mend.
        """


def read_header(path: Path, name: str) -> FileHeader:
    """The header of an existing file, of the class that fits its format.

    Args:
        name: what the messages call the file, which may lie elsewhere than where the user has it.

    Raises:
        OSError: the file cannot be read.
    """
    return _read_meta_image(path, name) or _read_nifti(path, name) or _read_nrrd(path, name) or FileHeader(path, name)


# Offset and struct format of the fields that are checked, by the size of the header, which is its first field:
# nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
_NIFTI_FIELDS = {
    348: {"size": (0, "i"), "magic": (344, "4s"), "dim": (40, "8h"), "datatype": (70, "h"), "pixdim": (76, "8f"),
          "vox_offset": (108, "f"), "qform_code": (252, "h"), "quatern": (256, "3f"), "sform_code": (254, "h"),
          "srow": (280, "12f")},
    540: {"size": (0, "i"), "magic": (4, "8s"), "dim": (16, "8q"), "datatype": (12, "h"), "pixdim": (104, "8d"),
          "vox_offset": (168, "q"), "qform_code": (344, "i"), "quatern": (352, "3d"), "sform_code": (348, "i"),
          "srow": (400, "12d")},
}  # fmt: skip

# The types with one real value per voxel.
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


@dataclass(frozen=True)
class _NiftiHeader(FileHeader):
    """The fields of a NIfTI header that ITK silently repairs where they are wrong."""

    byte_order: str
    size: tuple[int]
    magic: tuple[bytes]
    dim: tuple[int, ...]
    datatype: tuple[int]
    pixdim: tuple[float, ...]
    vox_offset: tuple[float]
    qform_code: tuple[int]
    quatern: tuple[float, ...]
    sform_code: tuple[int]
    srow: tuple[float, ...]

    def check(self) -> None:
        """Refuses impossible sizes, spacing, s-form and q-form, and a spacing that the s-form contradicts."""
        n_axes = self.dim[0]
        if not 1 <= n_axes <= 7 or min(self.dim[1 : n_axes + 1]) < 1 or not abs(self.vox_offset[0]) < sys.maxsize:
            raise damaged(self.name)
        # The spacing along an axis of one voxel means nothing, and is often left at 0.
        long_axes = [axis for axis in range(min(n_axes, 3)) if self.dim[axis + 1] > 1]
        steps_mm = [self.pixdim[axis + 1] for axis in long_axes]
        if not all(0 < step < math.inf for step in steps_mm):
            raise bad_spacing(self.name, " x ".join(f"{step:g}" for step in self.pixdim[1:4]))
        axes = np.array(self.srow).reshape(3, 4)[:, :3]
        # The volume spanned by unit vectors along the axes is 0 where they lie in one plane.
        lengths = np.linalg.norm(axes, axis=0)
        singular = not (np.isfinite(self.srow).all() and abs(np.linalg.det(axes)) > 1e-3 * np.prod(lengths))
        if (self.sform_code[0] > 0 and singular) or (self.qform_code[0] > 0 and not np.isfinite(self.quatern).all()):
            raise bad_direction(self.name)
        # The axes that ITK takes are the s-form's then, but the spacing is always pixdim's.
        takes_sform = self.sform_code[0] == 1 or (self.sform_code[0] > 0 and self.qform_code[0] <= 0)
        if takes_sform and not np.allclose(lengths[long_axes], steps_mm, rtol=SFORM_TOLERANCE, atol=0):
            stated, by_axes = (" x ".join(f"{step:.4g}" for step in steps) for steps in (self.pixdim[1:4], lengths))
            raise UserError(
                f"The header of {self.name} contradicts itself: voxels of {stated} mm by its spacing, of {by_axes} mm "
                f"by its s-form. Correct it or export the scan again."
            )

    def check_data(self, reader: sitk.ImageFileReader) -> None:
        """Refuses missing voxels and such that are not finite: ITK 5.4 reads both as 0."""
        # Not the reader's type, which is another one where values are scaled; ITK ignores the header's bitpix.
        voxel_type = np.dtype(self.byte_order + _NIFTI_TYPES[self.datatype[0]])
        n_voxels = math.prod(self.dim[1 : self.dim[0] + 1])
        try:
            chunks = _read_through(self._data_path, self._data_offset, n_voxels * voxel_type.itemsize)
            n_finite = sum(np.count_nonzero(np.isfinite(np.frombuffer(chunk, voxel_type))) for chunk in chunks)
        except (EOFError, FileNotFoundError, zlib.error, gzip.BadGzipFile):
            raise damaged(self.name) from None
        if n_finite < n_voxels:
            raise not_finite(self.name, n_voxels - n_finite, n_voxels)

    @property
    def _in_one_file(self) -> bool:
        return self.magic[0].startswith(b"n+")

    @property
    def _data_path(self) -> Path:
        if self._in_one_file or header_of(self.path) != self.path:
            return self.path
        return next(iter(other_of_pair(self.path)), self.path.with_suffix(".img"))

    @property
    def _data_offset(self) -> int:
        """Bytes before the voxels; smaller numbers than the header's own size are ignored, as ITK does."""
        return max(int(self.vox_offset[0]), self.size[0] if self._in_one_file else 0)


def _read_nifti(path: Path, name: str) -> _NiftiHeader | None:
    """The header of a NIfTI file, None for any other file.

    Raises:
        UserError: it is one, and damaged at its beginning.
    """
    try:
        with _open(header_of(path)) as file:
            raw = file.read(540)
    except (EOFError, zlib.error, gzip.BadGzipFile, FileNotFoundError):
        return None
    for byte_order in "<>":
        size = struct.unpack(f"{byte_order}i", raw[:4])[0] if len(raw) >= 4 else 0
        if size in _NIFTI_FIELDS and len(raw) >= size:
            fields: dict[str, Any] = {
                field: struct.unpack_from(byte_order + layout, raw, offset)
                for field, (offset, layout) in _NIFTI_FIELDS[size].items()
            }
            # Without these letters it is an Analyze file, which has none of the fields.
            return _NiftiHeader(path, name, byte_order, **fields) if fields["magic"][0][:2] in (b"n+", b"ni") else None
    # ITK reads it even where the header's own size is wrong, and computes for ever where its axes are not finite.
    if raw[344:347] in (b"n+1", b"ni1") or raw[4:7] in (b"n+2", b"ni2"):
        raise damaged(name)
    return None


@dataclass(frozen=True)
class _MetaImageHeader(FileHeader):
    """The fields of a MetaImage header that say where the data are and how long."""

    fields: dict[str, str]
    length: int
    """Bytes before the data, where they are in the same file."""

    def check(self) -> None:
        """Refuses a size that is missing or makes ITK crash, and data that are not named."""
        try:
            sizes = [int(size) for size in self.fields["DimSize"].split()]
            consistent = len(sizes) == int(self.fields["NDims"]) and min(sizes) > 0
        except (KeyError, ValueError):
            consistent = False
        if not consistent or "ElementDataFile" not in self.fields:
            raise damaged(self.name)

    def check_data(self, reader: sitk.ImageFileReader) -> None:
        """Refuses data that are too short, or compressed and damaged, on which ITK crashes."""
        data_file = self.fields["ElementDataFile"]
        if data_file.isprintable() and (data_file.startswith("LIST") or "%" in data_file):
            # A file for each slice, which ITK looks for.
            return
        in_one_file = data_file.upper() == "LOCAL"
        data_path, offset = (self.path, self.length) if in_one_file else (self.path.parent / data_file, 0)
        if not data_path.is_file() or not self._is_complete(data_path, offset, _n_bytes(reader)):
            raise damaged(self.name)

    def _is_complete(self, data_path: Path, offset: int, n_bytes: int) -> bool:
        if self.fields.get("CompressedData", "False").lower() != "true":
            return data_path.stat().st_size >= offset + n_bytes
        with open(data_path, "rb") as file:
            file.seek(offset)
            return _inflates_to(file, n_bytes)


def _read_meta_image(path: Path, name: str) -> _MetaImageHeader | None:
    """The header of a MetaImage file, None for any other file."""
    if not path.name.lower().endswith((".mha", ".mhd")):
        return None
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        # The line that names the data is the header's last.
        while "ElementDataFile" not in fields and (line := file.readline(4096)):
            key, _, value = line.decode("utf-8", "surrogateescape").partition("=")
            fields[key.strip()] = value.strip()
        return _MetaImageHeader(path, name, fields, file.tell())


@dataclass(frozen=True)
class _NrrdHeader(FileHeader):
    lines: list[str]

    def check_data(self, reader: sitk.ImageFileReader) -> None:
        """Refuses a 3D file without a spacing along some axis, which ITK reads as 1 mm, and data that are too short."""
        for line in self.lines:
            field, _, value = line.partition(":")
            steps = value.lower().split()
            if field in ("spacings", "space directions") and len(steps) == 3 and {"none", "nan"} & set(steps):
                raise bad_spacing(self.name, value.strip())
        # ITK itself finds a shorter file out, but after it has set aside the memory. A .nhdr has its data elsewhere.
        in_one_file = self.path.name.lower().endswith(".nrrd")
        if in_one_file and _n_bytes(reader) > self.path.stat().st_size * MAX_DEFLATE_RATIO:
            raise damaged(self.name)


def _read_nrrd(path: Path, name: str) -> _NrrdHeader | None:
    """The header of a NRRD file, None for any other file."""
    with open(path, "rb") as file:
        if file.read(4) != b"NRRD":
            return None
        text = file.read(_CHUNK_BYTES).partition(b"\n\n")[0].decode("latin-1")
    return _NrrdHeader(path, name, text.splitlines())


def _n_bytes(reader: sitk.ImageFileReader) -> int:
    """Bytes of the voxels, unpacked, where they are stored in the type that ITK gives them."""
    # "16-bit signed integer" and the like.
    bits = int(sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()).partition("-bit")[0])
    return math.prod(reader.GetSize()) * bits // 8


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    """A file's content, unpacked if it is gzipped."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


def _read_through(path: Path, offset: int, n_bytes: int) -> Iterator[bytes]:
    """So many bytes of a file's unpacked content, in pieces of `_CHUNK_BYTES`.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile: there are fewer, or the gzip stream is damaged.
    """
    with _open(path) as file:
        file.seek(offset)
        for start in range(0, n_bytes, _CHUNK_BYTES):
            chunk = file.read(min(_CHUNK_BYTES, n_bytes - start))
            if len(chunk) < min(_CHUNK_BYTES, n_bytes - start):
                raise EOFError
            yield chunk
        # On to the end if that is near: only there are a gzip stream's length and checksum compared.
        file.read(_CHUNK_BYTES)


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
