"""The main job: a scan in, a mask on the scan's own grid and a report out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from torch import Tensor

from vnet_segmentation.bundle import load_bundle
from vnet_segmentation.confidence import confidence_report
from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.inference import Predictor
from vnet_segmentation.measurements import measure
from vnet_segmentation.preprocessing import Preprocessing, centre_mm, crop, prepare, to_scan_grid

Point = NDArray[np.float64]
ProgressCallback = Callable[[float, str], None]

_MARGIN_MM = 12.0
"""A gland that comes nearer than this to the border of the field, where the scan goes on, is looked at again."""
_MAX_MOVES = 3
_SECOND_LOOK_SHIFT = (8, 8, 6)
"""Voxels along x, y, z: half of the deepest stage's stride and less. A mirrored look from the same place agrees with
the first even where both are wrong."""
_SMALLEST_GLAND_ML = 3.0
"""Less than this is not taken for a gland while searching; glands of adults start at about 10 ml."""
_SEARCH_FIELD_MM = 256.0
"""Side of the cube that is searched for a gland that is not at the scan's centre."""


@dataclass(frozen=True)
class Segmentation:
    """The result for one scan; both images have the scan's exact size, spacing, origin and direction."""

    mask: sitk.Image
    """uint8: 1 in the prostate, 0 elsewhere."""
    probability: sitk.Image
    """float32 in [0, 1]; 0 outside the field that the network saw."""
    report: dict[str, Any]
    """Plain values, see Docs/reference.md."""

    @property
    def is_empty(self) -> bool:
        return bool(self.report["volume_ml"] == 0)


@dataclass(frozen=True)
class _Look:
    """What the network saw around one point."""

    centre_mm: Point
    probability: Tensor
    """(depth, height, width) in [0, 1]."""
    grid: sitk.Image


class Segmenter:
    """A model, loaded once, that segments any number of scans.

    Args:
        model: folder of a model bundle.
        device: from `device.choose_device`.

    Raises:
        UserError: the bundle is missing, damaged or foreign (`ExitCode.BAD_MODEL`).
    """

    def __init__(self, model: Path, device: Device) -> None:
        network, self.description = load_bundle(model)
        try:
            self.preprocessing = Preprocessing.from_dict(self.description["preprocessing"])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The model {model} has unknown preprocessing settings. Install the version it was made for.",
                ExitCode.BAD_MODEL,
            ) from error
        self._predictor = Predictor(network, device)

    def segment(
        self, scan: sitk.Image, threshold: float = 0.5, progress: ProgressCallback = lambda fraction, sentence: None
    ) -> Segmentation:
        """Segments the prostate.

        The network looks at the middle of the scan, moves to the gland if that is near the border of what it sees,
        searches further where it finds none, and looks a second time, with the field shifted and mirrored; the
        probability is the mean of both, and how well they agree is a measure of confidence.

        Args:
            scan: 3D, scalar; any axes, spacing and direction. See `scans.read_scan`.
            threshold: probability from which a voxel is prostate, above 0 and below 1.
            progress: told the part that is done, 0 to 1, and a sentence.

        Raises:
            UserError: threshold out of range (`ExitCode.USAGE`), or memory too small (`ExitCode.OUT_OF_MEMORY`).
        """
        if not 0 < threshold < 1:
            raise UserError(f"The threshold must be between 0 and 1, is {threshold:g}.", ExitCode.USAGE)
        stopwatch = _Stopwatch()
        progress(0.0, "Preparing the scan")
        with stopwatch.time("prepare"):
            prepared = prepare(scan, self.preprocessing)
        with stopwatch.time("network"):
            progress(0.15, "Looking for the prostate")
            look = self._find(prepared)
            progress(0.55, "Looking a second time")
            second = self._second_look(prepared, look)
        progress(0.85, "Drawing the mask on the scan")
        with stopwatch.time("mask"):
            mean = (look.probability + second) / 2
            probability = to_scan_grid(mean, look.grid, scan)
            mask = mask_from_probability(probability, threshold)
            measurements = measure(mask)
        warnings = list(self._predictor.steps_down)
        warnings += _warnings(mask, measurements.volume_ml, mean >= threshold, look.grid, scan)
        device = self._predictor.device
        report = {
            "volume_ml": round(measurements.volume_ml, 2),
            "diameters_mm": {
                "transverse": round(measurements.transverse_mm, 1),
                "anteroposterior": round(measurements.anteroposterior_mm, 1),
                "craniocaudal": round(measurements.craniocaudal_mm, 1),
            },
            "ellipsoid_volume_ml": round(measurements.ellipsoid_ml, 2),
            "confidence": confidence_report(look.probability, second, threshold),
            "threshold": threshold,
            "model": {"name": self.description["name"], "sha256": self.description["weights"]["sha256"]},
            "device": {"name": device.name, "precision": device.precision, "reason": device.reason},
            "seconds": stopwatch.seconds,
            "warnings": warnings,
        }
        progress(1.0, "Done")
        return Segmentation(mask, probability, report)

    def _find(self, prepared: sitk.Image) -> _Look:
        """The look whose field has the gland well inside; the one at the scan's centre if there is no gland."""
        first = look = self._look(prepared, centre_mm(prepared))
        if self._gland_ml(look) < _SMALLEST_GLAND_ML:
            others = [self._look(prepared, point) for point in self._search_points(prepared)]
            look = max([first, *others], key=self._gland_ml)
            if self._gland_ml(look) < _SMALLEST_GLAND_ML:
                return first
        for _ in range(_MAX_MOVES):
            target = self._better_centre(prepared, look)
            if target is None:
                return look
            moved = self._look(prepared, target)
            # A second look that loses the gland is no better look.
            if self._gland_ml(moved) < self._gland_ml(look) / 2:
                return look
            look = moved
        return look

    def _look(self, prepared: sitk.Image, point_mm: Point) -> _Look:
        image, grid = crop(prepared, point_mm, self.preprocessing)
        return _Look(point_mm, self._predictor.probability(image), grid)

    def _second_look(self, prepared: sitk.Image, look: _Look) -> Tensor:
        """The probability in `look`'s field as seen from a shifted field, left and right exchanged."""
        x, y, z = _SECOND_LOOK_SHIFT
        middle = [(n - 1) / 2 + step for n, step in zip(self.preprocessing.size, _SECOND_LOOK_SHIFT, strict=True)]
        centre = np.array(look.grid.TransformContinuousIndexToPhysicalPoint(middle))
        shifted, _ = crop(prepared, centre, self.preprocessing)
        seen = self._predictor.probability(shifted.flip(2)).flip(2)
        # At the near borders, which the shifted field does not reach, the first look stands.
        second = look.probability.clone()
        second[z:, y:, x:] = seen[:-z, :-y, :-x]
        return second

    def _gland_ml(self, look: _Look) -> float:
        voxel_ml = float(np.prod(self.preprocessing.spacing_mm)) / 1000
        return int((look.probability >= 0.5).sum()) * voxel_ml

    def _search_points(self, prepared: sitk.Image) -> Iterator[Point]:
        """Centres of overlapping fields, but for the one in the middle, that cover the scan."""
        offsets_mm = []
        for n, spacing, seen_mm in zip(
            prepared.GetSize(), prepared.GetSpacing(), self.preprocessing.extent_mm, strict=True
        ):
            reach_mm = max(0.0, (min(n * spacing, _SEARCH_FIELD_MM) - seen_mm) / 2)
            # Neighbours share at least half of what they see, so that one of them has the gland well inside.
            n_steps = 2 * math.ceil(2 * reach_mm / seen_mm)
            offsets_mm.append(np.linspace(-reach_mm, reach_mm, n_steps + 1))
        axes = np.array(prepared.GetDirection()).reshape(3, 3)
        for offset_mm in product(*offsets_mm):
            if any(offset_mm):
                yield centre_mm(prepared) + axes @ np.array(offset_mm)

    def _better_centre(self, prepared: sitk.Image, look: _Look) -> Point | None:
        """The gland's middle if the gland is near a border of the field beyond which the scan goes on."""
        found = sitk.GetImageFromArray((look.probability >= 0.5).numpy().astype(np.uint8))
        found.CopyInformation(look.grid)
        box = _bounding_box(keep_largest_component(found))
        if box is None:
            return None
        low, high = box
        spacing, size = np.array(self.preprocessing.spacing_mm), np.array(self.preprocessing.size)
        too_near = np.zeros(3, bool)
        for axis in range(3):
            for end, distance in ((low, low[axis]), (high, size[axis] - 1 - high[axis])):
                if distance * spacing[axis] < _MARGIN_MM:
                    beyond = (low + high) / 2
                    beyond[axis] = -0.5 if end is low else size[axis] - 0.5
                    too_near[axis] |= _contains(
                        prepared, look.grid.TransformContinuousIndexToPhysicalPoint(beyond.tolist())
                    )
        middle = np.where(too_near, (low + high) / 2, (size - 1) / 2)
        # Less than two voxels is no other look.
        if (np.abs(middle - (size - 1) / 2) < 2).all():
            return None
        return np.array(look.grid.TransformContinuousIndexToPhysicalPoint(middle.tolist()))


def mask_from_probability(probability: sitk.Image, threshold: float = 0.5) -> sitk.Image:
    """The largest connected part (faces touch) of what reaches the threshold.

    The authors' code turns an empty prediction into a mask that is all prostate; here it stays empty.

    Args:
        probability: float32 in [0, 1].

    Returns:
        uint8 of 0 and 1 on the same grid.
    """
    # The upper limit is above 1 for what rounding may have added.
    return keep_largest_component(sitk.BinaryThreshold(probability, threshold, 2.0, 1, 0))


def keep_largest_component(mask: sitk.Image) -> sitk.Image:
    """The largest connected part (faces touch) of a mask of 0 and 1, uint8."""
    box = _bounding_box(mask)
    if box is None:
        return mask
    start, size = box[0].tolist(), (box[1] - box[0] + 1).tolist()
    # Labelling the box alone spares most of a large scan.
    labels = sitk.ConnectedComponent(sitk.RegionOfInterest(mask, size, start))
    counts = np.bincount(sitk.GetArrayViewFromImage(labels).ravel())
    if len(counts) <= 2:
        return mask
    largest = sitk.Cast(labels == int(counts[1:].argmax()) + 1, sitk.sitkUInt8)
    return sitk.Paste(mask * 0, largest, largest.GetSize(), [0, 0, 0], start)


def _bounding_box(mask: sitk.Image) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """First and last index (x, y, z) of a mask's voxels; None if it is empty."""
    array = sitk.GetArrayViewFromImage(mask)
    ends = []
    for axis in (2, 1, 0):
        used = np.flatnonzero(array.any(axis=tuple(i for i in range(3) if i != axis)))
        if len(used) == 0:
            return None
        ends.append((used[0], used[-1]))
    low, high = np.array(ends, np.int64).T
    return low, high


def _contains(image: sitk.Image, point_mm: tuple[float, ...]) -> bool:
    index = image.TransformPhysicalPointToContinuousIndex(point_mm)
    return all(-0.5 <= i <= n - 0.5 for i, n in zip(index, image.GetSize(), strict=True))


def _warnings(mask: sitk.Image, volume_ml: float, found: Tensor, grid: sitk.Image, scan: sitk.Image) -> list[str]:
    box = _bounding_box(mask)
    if box is None:
        return ["No prostate was found. Check that this is a T2-weighted MR scan of the pelvis."]
    warnings = []
    low, high = box
    if (low == 0).any() or (high == np.array(mask.GetSize()) - 1).any():
        warnings.append("The prostate touches the border of the scan: part of it may be missing.")
    if _touches_open_border(found, grid, scan):
        warnings.append("The prostate reaches the border of the field that the model sees: part of it may be missing.")
    if not 10 <= volume_ml <= 350:
        warnings.append(f"{volume_ml:.0f} ml is unusual for a prostate: check the mask.")
    return warnings


def _touches_open_border(found: Tensor, grid: sitk.Image, scan: sitk.Image) -> bool:
    """Whether the gland reaches a face of the crop beyond which the scan goes on."""
    for axis in range(3):
        for index in (0, found.shape[axis] - 1):
            face = found.select(axis, index).nonzero()
            if len(face):
                position = face.float().mean(0).tolist()
                position.insert(axis, -1.0 if index == 0 else float(index + 1))
                if _contains(scan, grid.TransformContinuousIndexToPhysicalPoint(position[::-1])):
                    return True
    return False


class _Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 3)
