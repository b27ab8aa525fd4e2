"""A picture by which a person judges a mask at a look: slices of the scan with the mask's contour."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.images.masks import bounding_box

N_SLICES = 13
N_COLUMNS = 5
CELL_PIXELS = 320
MARGIN_MM = 25.0
"""Shown around the gland in the plane of a cell."""
SLICE_MARGIN_MM = 5.0
"""Shown beyond the first and the last slice of the gland, and at least one slice."""
WINDOW_MARGIN_MM = 5.0
WINDOW_PERCENTILES = (1.0, 98.0)
"""Intensities that become black and white, of those in the gland and 5 mm around it."""
MEDIAN_GRAY = 0.3
MIN_GAMMA = 0.6
"""The glare of an endorectal coil leaves the gland dark: where the median there is below `MEDIAN_GRAY` (0 black,
1 white), a gamma correction, not stronger than this, lifts it towards that."""

CONTOUR_RGB = (255, 220, 0)

_GLYPH_SCALE = 3
# Five rows of three pixels each: a row is an octal digit, its highest bit the left pixel.
_GLYPHS = {
    "0": "75557",
    "1": "26227",
    "2": "71747",
    "3": "71717",
    "4": "55711",
    "5": "74717",
    "6": "74757",
    "7": "71111",
    "8": "75757",
    "9": "75717",
    "A": "25755",
    "R": "65655",
    "S": "34216",
}


@dataclass(frozen=True)
class _View:
    """How a plane is shown. An axis is that of an image oriented LPS: x to the left, y to the back, z to the head."""

    normal: int
    right: int
    """Axis that runs to the right of the picture."""
    down: int
    down_sign: int
    """-1 if the axis runs up the picture instead."""
    step: int
    """-1 if the slices are shown from the axis's end to its beginning."""
    left_label: str
    """The patient's side at the left of the picture."""
    top_label: str


# Radiological convention: seen from the feet, from the left or from the front, head or front up.
_AXIAL = _View(normal=2, right=0, down=1, down_sign=1, step=-1, left_label="R", top_label="A")
_SAGITTAL = _View(normal=0, right=1, down=2, down_sign=-1, step=1, left_label="A", top_label="S")
_CORONAL = _View(normal=1, right=0, down=2, down_sign=-1, step=1, left_label="R", top_label="S")


def write_picture(
    scan: sitk.Image,
    mask: sitk.Image,
    path: str | os.PathLike[str],
) -> None:
    """Writes a montage of a scan with the contour of its mask, as a PNG file.

    Up to 13 of the slices as they were acquired (across the axis of the widest spacing): the gland's first and last,
    one a little beyond either, and others spread between them; then a cut through the gland's middle in either of the
    other two planes. All cells have one scale, with square pixels, and show the gland with 25 mm around it, or the
    whole scan if the mask is empty. Each is labelled with the patient's sides and, above left, with the index of its
    slice along the file's own axis, from 0.

    Args:
        scan: three-dimensional scalar image, any axis order and direction.
        mask: 0 outside the gland, 1 within, on the scan's grid; its contour is yellow.
        path: the file to write; ends in ``.png``.

    Raises:
        UserError: the file cannot be written.
    """
    montage = _montage(scan, mask)
    with atomic_path(path) as temporary:
        # A folder that cannot be written fails here, with the system's reason; the PNG writer does not tell it.
        temporary.touch()
        try:
            sitk.WriteImage(sitk.GetImageFromArray(montage, isVector=True), str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError("the disk may be full") from error


def _montage(scan: sitk.Image, mask: sitk.Image) -> NDArray[np.uint8]:
    """RGB, (rows, columns, 3)."""
    canvas = _Canvas(scan, mask)
    # Sorting is stable: near-isotropic scans are shown in axial slices.
    main, *others = sorted((_AXIAL, _SAGITTAL, _CORONAL), key=canvas.relative_spacing, reverse=True)
    cells = [canvas.cell(main, index) for index in canvas.slice_indices(main)]
    cells += [canvas.cell(view, canvas.middle_index(view)) for view in others]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % N_COLUMNS)
    return np.vstack([np.hstack(cells[i : i + N_COLUMNS]) for i in range(0, len(cells), N_COLUMNS)])


class _Canvas:
    """The images, oriented and cut to the field that all cells show, and the window that they share."""

    def __init__(self, scan: sitk.Image, mask: sitk.Image) -> None:
        self._file_grid = scan
        mask = sitk.DICOMOrient(mask, "LPS")
        box = bounding_box(mask)
        self._is_empty = box is None
        # A mask without a gland stands for the whole scan.
        first, last = box or (np.zeros(3, np.int64), np.array(mask.GetSize()) - 1)
        spacing_mm = np.array(mask.GetSpacing())
        margin_mm = 0.0 if self._is_empty else MARGIN_MM
        self._field_mm = float(((last - first + 1) * spacing_mm).max()) + 2 * margin_mm

        reach = np.ceil(self._field_mm / 2 / spacing_mm).astype(int) + 1
        start = np.maximum((first + last) // 2 - reach, 0)
        stop = np.minimum((first + last) // 2 + reach + 1, mask.GetSize())

        def cut(image: sitk.Image) -> sitk.Image:
            oriented = sitk.DICOMOrient(image, "LPS")
            field = sitk.RegionOfInterest(oriented, (stop - start).tolist(), start.tolist())
            return sitk.Cast(field, sitk.sitkFloat32)

        self._scan, self._mask = cut(scan), cut(mask)
        self._first, self._last = first - start, last - start
        self._middle = (self._first + self._last) // 2
        self._spacing_mm = spacing_mm
        self._fit_window()

    def _fit_window(self) -> None:
        margin = np.rint(WINDOW_MARGIN_MM / self._spacing_mm).astype(int)
        box = tuple(map(slice, np.maximum(self._first - margin, 0)[::-1], (self._last + margin + 1)[::-1]))
        near = sitk.GetArrayViewFromImage(self._scan)[box]
        self._black, white = (float(intensity) for intensity in np.percentile(near, WINDOW_PERCENTILES))
        # A constant scan is black.
        self._contrast = white - self._black or 1.0
        median = (float(np.median(near)) - self._black) / self._contrast
        self._gamma = max(MIN_GAMMA, math.log(MEDIAN_GRAY) / math.log(median)) if 0 < median < MEDIAN_GRAY else 1.0

    def relative_spacing(self, view: _View) -> int:
        """Distance of the slices, in whole multiples of the smallest spacing."""
        return round(float(self._spacing_mm[view.normal] / self._spacing_mm.min()))

    def middle_index(self, view: _View) -> int:
        """Index along the view's normal of the cut through the middle of the gland."""
        return int(self._middle[view.normal])

    def slice_indices(self, view: _View) -> list[int]:
        """Indices along the view's normal, in the order in which they are shown."""
        n = self._scan.GetSize()[view.normal]
        margin = 0 if self._is_empty else max(1, round(SLICE_MARGIN_MM / self._spacing_mm[view.normal]))
        first, last = int(self._first[view.normal]), int(self._last[view.normal])
        # The gland's ends, where masks fail first, are always there; where it has many slices, the middle is thinned.
        ends = {max(0, first - margin), first, last, min(n - 1, last + margin)}
        inner = np.linspace(first, last, N_SLICES - len(ends) + 2)[1:-1].round().astype(int)
        return sorted(ends.union(inner.tolist()), reverse=view.step < 0)

    def cell(self, view: _View, index: int) -> NDArray[np.uint8]:
        """One slice, RGB, with contours and labels."""
        intensity = self._plane(self._scan, view, index, sitk.sitkBSpline)
        gray = np.clip((intensity - self._black) / self._contrast, 0, 1) ** self._gamma
        cell = np.repeat((gray * 255).round().astype(np.uint8)[..., np.newaxis], 3, axis=2)
        # At half the height of the mask's linear interpolation the contour is smooth and between the voxels' centres.
        cell[_contour(self._plane(self._mask, view, index, sitk.sitkLinear) >= 0.5)] = CONTOUR_RGB
        _write_label(cell, str(self._index_in_file(view, index)), row=6, column=6)
        _write_label(cell, view.left_label, row=CELL_PIXELS // 2, column=6)
        _write_label(cell, view.top_label, row=6, column=CELL_PIXELS // 2)
        cell[-1], cell[:, -1] = 0, 0
        return cell

    def _plane(self, image: sitk.Image, view: _View, index: int, interpolator: int) -> NDArray[np.float32]:
        """Square pixels of the slice `index` across the view's normal, (row, column); 0 outside the image."""
        directions = np.array(image.GetDirection()).reshape(3, 3)
        right, down = directions[:, view.right], view.down_sign * directions[:, view.down]
        pixel_mm = self._field_mm / CELL_PIXELS
        corner_mm = self._centre_mm(view, index) - (CELL_PIXELS - 1) / 2 * pixel_mm * (right + down)
        plane = sitk.Resample(
            image,
            (CELL_PIXELS, CELL_PIXELS, 1),
            sitk.Transform(),
            interpolator,
            corner_mm.tolist(),
            (pixel_mm, pixel_mm, 1.0),
            np.stack([right, down, np.cross(right, down)], axis=1).ravel().tolist(),
        )
        return sitk.GetArrayFromImage(plane)[0]

    def _centre_mm(self, view: _View, index: int) -> NDArray[np.float64]:
        centre = self._middle.copy()
        centre[view.normal] = index
        return np.array(self._scan.TransformIndexToPhysicalPoint(centre.tolist()))

    def _index_in_file(self, view: _View, index: int) -> int:
        """Index of a slice along the axis of the scan as it came, whose axes may have another order and sense."""
        normal = np.array(self._scan.GetDirection()).reshape(3, 3)[:, view.normal]
        file_axes = np.array(self._file_grid.GetDirection()).reshape(3, 3)
        axis = int(np.abs(normal @ file_axes).argmax())
        return int(self._file_grid.TransformPhysicalPointToIndex(self._centre_mm(view, index).tolist())[axis])


def _contour(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels on either side of the region's boundary: a line two pixels wide, centred on it.

    Where the region goes on beyond the picture there is no line.
    """
    padded = np.pad(region, 1, mode="edge")
    neighbours = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    return np.logical_or.reduce([neighbour != region for neighbour in neighbours])


def _write_label(cell: NDArray[np.uint8], text: str, row: int, column: int) -> None:
    """Writes digits and letters in white on black, in place; `row` and `column` are those of the upper left corner."""
    glyphs = [
        [[digit >> bit & 1 for bit in (2, 1, 0, 3)] for digit in map(int, _GLYPHS[character])] for character in text
    ]
    label = np.pad(np.hstack(glyphs), 1)[:, :-1].repeat(_GLYPH_SCALE, axis=0).repeat(_GLYPH_SCALE, axis=1)
    height, width = label.shape
    cell[row : row + height, column : column + width] = 255 * label[..., np.newaxis]
