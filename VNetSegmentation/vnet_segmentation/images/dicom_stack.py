"""Slices and frames as one even stack, which ITK takes them for without looking."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.dicom_files import (
    MODALITY,
    ORIENTATION,
    POSITION,
    numbers,
    read_header,
    split_numbers,
    tag,
)

POSITION_TOLERANCE_MM = 0.01
GAP_TOLERANCE = 0.1
"""Distances between slices may differ by this part of their median, which rounded positions explain."""
SHIFT_TOLERANCE_MM = 1.0
"""Sideways shift over the whole stack that is taken for rounding; ITK would straighten a larger one silently."""

_PLANE_POSITIONS, _PLANE_ORIENTATIONS = "0020|9113", "0020|9116"
"""Sequences of an enhanced file, with the position and the orientation of its frames."""


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
    positions_mm = _numbers_in_sequences(header.GetFileName(), _PLANE_POSITIONS, POSITION)
    orientations = _numbers_in_sequences(header.GetFileName(), _PLANE_ORIENTATIONS, ORIENTATION)
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


def sorted_slices(files: Sequence[str], name: str) -> list[sitk.ImageFileReader]:
    """The files' headers along the stack's normal; refuses a stack that is not an even grid.

    Args:
        files: of a slice each.
        name: what the messages call them.

    Raises:
        UserError: slices that are missing, doubled, shifted or unevenly spaced, or that differ in size, spacing,
            orientation or modality; or that do not say where they lie.
    """
    headers = [read_header(file) for file in files]
    positions = [numbers(header, POSITION) for header in headers]
    orientations = [numbers(header, ORIENTATION) for header in headers]
    if any(len(p) != 3 for p in positions) or any(len(o) != 6 for o in orientations):
        raise UserError(f"{name} does not say where its slices lie. Export it again from the scanner or the archive.")
    spacings_mm = [header.GetSpacing()[:2] for header in headers]
    kinds = {(header.GetSize(), tag(header, MODALITY).upper()) for header in headers}
    if (
        len(kinds) > 1
        or headers[0].GetSize()[2] > 1
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
        return [split_numbers(content[at : at + length].decode("latin-1")) for at, length in found]
