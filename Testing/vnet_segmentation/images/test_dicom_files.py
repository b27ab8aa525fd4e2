"""Damaged DICOM files are named, and take no memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_series import write_series

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.dicom import read_series


@pytest.mark.parametrize("slice_number", [1, 6])
def test_refuses_truncated_slice(tmp_path: Path, slice_number: int) -> None:
    # GDCM leaves such a file out, at the end of the stack without a trace.
    write_series(tmp_path)
    path = tmp_path / f"1.2.826.3-{slice_number:03d}.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"damaged or incomplete .*{path.name}"):
        read_series(tmp_path)


@pytest.mark.parametrize("damage", ["length", "type", "group"])
def test_an_element_larger_than_its_file_is_refused_before_memory_is_taken(tmp_path, damage):
    write_series(tmp_path)
    file = sorted(tmp_path.iterdir())[3]
    content = bytearray(file.read_bytes())
    if damage == "length":
        # (0002,0001), OB: its length, four bytes, is 8 bytes on.
        at = content.index(b"\x02\x00\x01\x00OB") + 8
        content[at : at + 4] = (3_000_000_000).to_bytes(4, "little")
    elif damage == "group":
        content[132] = 0x7F
    else:
        at = content.index(b"\x02\x00\x02\x00UI") + 4
        content[at : at + 2] = b"U}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name} is damaged"):
        read_series(tmp_path)
