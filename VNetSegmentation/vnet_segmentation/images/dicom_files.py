"""DICOM files one by one: their elements, and those that GDCM loses or is lost with."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

SOP_CLASS, MODALITY, DESCRIPTION, PROTOCOL = "0008|0016", "0008|0060", "0008|103e", "0018|1030"
SERIES_NUMBER, POSITION, ORIENTATION = "0020|0011", "0020|0032", "0020|0037"

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


def read_header(file: str) -> sitk.ImageFileReader:
    """The reader of a file of one slice or of several frames, its header read.

    Raises:
        RuntimeError: ITK cannot read it.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def tag(header: sitk.ImageFileReader, key: str) -> str:
    """The text of an element, empty where it is missing."""
    return header.GetMetaData(key).strip(" \0") if header.HasMetaDataKey(key) else ""


def numbers(header: sitk.ImageFileReader, key: str) -> list[float]:
    """The numbers of an element, empty where it is missing or no number."""
    return split_numbers(tag(header, key))


def split_numbers(text: str) -> list[float]:
    """Backslash-separated numbers, empty where one is none."""
    try:
        return [float(number) for number in text.strip(" \0").split("\\")]
    except ValueError:
        return []


def would_fill_memory(path: Path) -> bool:
    """Whether an element claims to be larger than its file by far: GDCM takes the memory first, up to 4 GB, and keeps
    it. So it does where the type of an element of the file's own header is none, and where that header does not come
    first, so that GDCM has to guess how the rest is coded.

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
            if group != 2 and not syntax:
                return True
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


def damaged_files(files: Sequence[str], uid: str) -> list[str]:
    """Names of files of a series that GDCM could not read, and so left out without a word.

    Recognised by the series' UID and by its SOP class, which a report that refers to the series does not have.

    Args:
        files: those that it read, all in one folder.
        uid: of the series.
    """
    known = {Path(file).name for file in files}
    sop_class, uid_bytes = (
        text.encode("utf-8", "surrogateescape") for text in (tag(read_header(files[0]), SOP_CLASS), uid)
    )
    damaged = []
    for path in Path(files[0]).parent.iterdir():
        if path.name not in known and os.path.isfile(path):
            with open(path, "rb") as file:
                start = file.read(1 << 16)
            # The SOP class is the second or third element after the preamble and the letters DICM.
            if start[128:132] == b"DICM" and sop_class in start[:256] and uid_bytes in start:
                damaged.append(path.name)
    return damaged
