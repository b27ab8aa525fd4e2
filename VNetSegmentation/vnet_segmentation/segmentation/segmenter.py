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
import torch
from numpy.typing import NDArray
from torch import Tensor

from vnet_segmentation.arrays import to_array
from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.masks import Box, bounding_box, keep_largest_component, mask_from_probability
from vnet_segmentation.images.measurements import measure
from vnet_segmentation.images.preprocessing import Preprocessing, centre_mm, crop, prepare, to_scan_grid
from vnet_segmentation.models.bundle import load_bundle
from vnet_segmentation.segmentation.confidence import agreement, confidence, confidence_report
from vnet_segmentation.segmentation.inference import Predictor

Point = NDArray[np.float64]
ProgressCallback = Callable[[float, str], None]

_MARGIN_MM = 12.0
"""A gland that comes nearer than this to the border of the field, where the scan goes on, is looked at again."""
_MAX_MOVES = 3
_SECOND_LOOK_SHIFT_MM = (8.0, 8.0, 9.0)
"""Along x, y, z: half of the deepest stage's stride and less. A mirrored look from the same place agrees with the first
even where both are wrong."""
_LEAST_MOVE_MM = 2.0
"""Less is no other look."""
_SMALLEST_GLAND_ML, _LARGEST_GLAND_ML = 10.0, 350.0
"""Beyond either a person is told; less than the first is looked for elsewhere, too, and what is more than the second is
compared last."""
_CONVINCING = 0.88
"""Of the agreement. Where there is no gland, the model may take something else for one, of up to about 60 ml, but two
looks at it seldom agree so well; if they do not, the gland is looked for elsewhere."""
_MAX_SEARCH_LOOKS, _MAX_CANDIDATES = 64, 6
"""About a minute on two cores."""
_SAME_GLAND_MM = 20.0
"""Nearer than this to each other, the middles of two finds are of one gland."""
_THICK_SLICES = 1.5
"""From this ratio to the other spacings the widest one tells how the slices lie."""


@dataclass(frozen=True)
class Segmentation:
    """The result for one scan; both images have the scan's exact size, spacing, origin and direction."""

    mask: sitk.Image
    """uint8: 1 in the prostate, 0 elsewhere."""
    probability: sitk.Image
    """float32 in [0, 1]; 0 outside the field that the network saw."""
    report: dict[str, Any]
    """Plain values, see Docs/reference.md."""


@dataclass(frozen=True)
class _Look:
    """What the network saw around one point."""

    probability: Tensor
    """(depth, height, width) in [0, 1]."""
    grid: sitk.Image
    gland: Box | None
    """Where the largest connected part lies; None if nothing was found."""
    gland_ml: float

    @property
    def gland_middle_mm(self) -> Point | None:
        """(x, y, z) in mm, LPS."""
        if self.gland is None:
            return None
        low, high = self.gland
        return np.array(self.grid.TransformContinuousIndexToPhysicalPoint(((low + high) / 2).tolist()))


@dataclass(frozen=True)
class _Find:
    """A look at what may be the gland, and a second one that says how sure that is."""

    look: _Look
    second: Tensor
    """The probability in the field of the first look, seen from another place."""

    @property
    def score(self) -> float:
        """How well both agree, in [0, 1]; 0 for what is too small."""
        return agreement(self.look.probability, self.second, 0.5) if self.look.gland_ml >= _SMALLEST_GLAND_ML else 0.0


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
        self.preprocessing = Preprocessing.from_dict(self.description["preprocessing"])
        self._predictor = Predictor(network, device)

    def warm_up(self) -> None:
        """One pass over an empty crop: a process's first pass chooses kernels and claims memory."""
        self._predictor.probability(torch.zeros(self.preprocessing.size[::-1]))

    def segment(
        self, scan: sitk.Image, threshold: float = 0.5, progress: ProgressCallback = lambda fraction, sentence: None
    ) -> Segmentation:
        """Segments the prostate.

        The network looks at the middle of the scan, moves to the gland if that is near the border of what it sees,
        and looks a second time, with the field shifted and mirrored; the probability is the mean of both, and how well
        they agree is a measure of confidence. Where that is low or there is no gland, it searches the rest of the scan
        for a better one.

        Args:
            scan: 3D, scalar; any axes, spacing and direction. See `scans.read_scan`.
            threshold: probability from which a voxel is prostate, above 0 and below 1.
            progress: told the part that is done, 0 to 1, and a sentence, before each look. What it raises, such as
                `errors.Cancelled`, ends the work.

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
            find = self._find(prepared, progress)
            look, second = find.look, find.second
        progress(0.85, "Drawing the mask on the scan")
        with stopwatch.time("mask"):
            mean = (look.probability + second) / 2
            probability = to_scan_grid(mean, look.grid, scan)
            mask = mask_from_probability(probability, threshold)
            measurements = measure(mask)
        warnings = list(self._predictor.steps_down)
        warnings += _warnings(mask, measurements.volume_ml, _gland(mean, look.grid, threshold), prepared)
        # The levels were measured on axial scans.
        most = "high" if _is_axial(prepared) else "medium"
        # What the looks found may lie between the scan's voxels, or outside of it.
        sure = confidence(look.probability, second, threshold) if measurements.volume_ml else 0.0
        device = self._predictor.device
        report = {
            "volume_ml": round(measurements.volume_ml, 2),
            "diameters_mm": {
                "transverse": round(measurements.transverse_mm, 1),
                "anteroposterior": round(measurements.anteroposterior_mm, 1),
                "craniocaudal": round(measurements.craniocaudal_mm, 1),
            },
            "ellipsoid_volume_ml": round(measurements.ellipsoid_ml, 2),
            "confidence": confidence_report(sure, most),
            "threshold": threshold,
            "model": {"name": self.description["name"], "sha256": self.description["weights"]["sha256"]},
            "device": {"name": device.name, "precision": device.precision, "reason": device.reason},
            "seconds": stopwatch.seconds,
            "warnings": warnings,
        }
        progress(1.0, "Done")
        return Segmentation(mask, probability, report)

    def _find(self, prepared: sitk.Image, progress: ProgressCallback) -> _Find:
        """What is most likely the gland; the field at the scan's centre if there is none."""
        finds = [self._examine(prepared, centre_mm(prepared), progress)]
        if finds[0].score >= _CONVINCING:
            return finds[0]
        candidates: list[tuple[bool, float, Point]] = []
        points = self._search_points(prepared)
        for number, point in enumerate(points):
            progress(0.5 + 0.3 * number / len(points), "Looking for the prostate in the rest of the scan")
            look = self._look(prepared, point)
            if look.gland_middle_mm is not None:
                candidates.append((look.gland_ml <= _LARGEST_GLAND_ML, look.gland_ml, look.gland_middle_mm))
        for *_, middle_mm in sorted(candidates, key=lambda candidate: candidate[:2], reverse=True):
            known_mm = [find.look.gland_middle_mm for find in finds if find.look.gland_middle_mm is not None]
            if any(np.linalg.norm(middle_mm - known) < _SAME_GLAND_MM for known in known_mm):
                continue
            finds.append(
                self._examine(prepared, middle_mm, lambda *_: progress(0.8, "Comparing what may be the prostate"))
            )
            if finds[-1].score >= _CONVINCING or len(finds) > _MAX_CANDIDATES:
                break
        return max(finds, key=lambda find: find.score)

    def _examine(self, prepared: sitk.Image, point_mm: Point, progress: ProgressCallback) -> _Find:
        progress(0.15, "Looking for the prostate")
        look = self._centred(prepared, self._look(prepared, point_mm), progress)
        progress(0.5, "Looking a second time")
        return _Find(look, self._second_look(prepared, look))

    def _centred(self, prepared: sitk.Image, look: _Look, progress: ProgressCallback) -> _Look:
        """A look at the same gland from where it is not near the field's border, as far as that goes."""
        for _ in range(_MAX_MOVES):
            target = self._better_centre(prepared, look)
            if target is None:
                return look
            progress(0.3, "Moving to the prostate")
            moved = self._look(prepared, target)
            # A second look that loses the gland is no better look.
            if moved.gland_ml < look.gland_ml / 2:
                return look
            look = moved
        return look

    def _look(self, prepared: sitk.Image, point_mm: Point) -> _Look:
        image, grid = crop(prepared, point_mm, self.preprocessing)
        probability = self._probability(image)
        gland = _gland(probability, grid)
        voxel_ml = math.prod(self.preprocessing.spacing_mm) / 1000
        volume_ml = np.count_nonzero(sitk.GetArrayViewFromImage(gland)) * voxel_ml
        return _Look(probability, grid, bounding_box(gland), volume_ml)

    def _second_look(self, prepared: sitk.Image, look: _Look) -> Tensor:
        """The probability in `look`'s field as seen from a shifted field, left and right exchanged."""
        shift_mm, spacing_mm = np.array(_SECOND_LOOK_SHIFT_MM), np.array(self.preprocessing.spacing_mm)
        x, y, z = (max(1, round(steps)) for steps in shift_mm / spacing_mm)
        middle = [(n - 1) / 2 + steps for n, steps in zip(self.preprocessing.size, (x, y, z), strict=True)]
        centre = np.array(look.grid.TransformContinuousIndexToPhysicalPoint(middle))
        shifted, _ = crop(prepared, centre, self.preprocessing)
        seen = self._probability(shifted.flip(2)).flip(2)
        # At the near borders, which the shifted field does not reach, the first look stands.
        second = look.probability.clone()
        second[z:, y:, x:] = seen[:-z, :-y, :-x]
        return second

    def _probability(self, image: Tensor) -> Tensor:
        """The network's answer to a crop; none where that has no contrast, as in padding, of which the network, which
        never saw such, takes half for a gland."""
        return self._predictor.probability(image) if image.any() else torch.zeros_like(image)

    def _search_points(self, prepared: sitk.Image) -> list[Point]:
        """Centres of overlapping fields, but for the one in the middle, that cover the scan; the nearest to the middle
        alone if they are very many."""
        steps_mm = []
        for n, spacing, seen_mm in zip(
            prepared.GetSize(), prepared.GetSpacing(), self.preprocessing.extent_mm, strict=True
        ):
            reach_mm = (n * spacing - seen_mm) / 2
            # Neighbours share at least half of what they see, so that one of them has the gland well inside.
            n_steps = math.ceil(4 * reach_mm / seen_mm) if reach_mm > _MARGIN_MM else 0
            steps_mm.append(np.linspace(-reach_mm, reach_mm, n_steps + 1) if n_steps else np.zeros(1))
        nearest_first = sorted(product(*steps_mm), key=lambda offset_mm: math.hypot(*offset_mm))
        middle, axes = centre_mm(prepared), np.array(prepared.GetDirection()).reshape(3, 3)
        points = [middle + axes @ offset_mm for offset_mm in nearest_first if any(offset_mm)]
        return points[:_MAX_SEARCH_LOOKS]

    def _better_centre(self, prepared: sitk.Image, look: _Look) -> Point | None:
        """The gland's middle along the axes where it is near a border of the field beyond which the scan goes on."""
        if look.gland is None:
            return None
        low, high = look.gland
        middle = (np.array(self.preprocessing.size) - 1) / 2
        target = np.where(_is_near_open_border(look.gland, look.grid, prepared, _MARGIN_MM), (low + high) / 2, middle)
        if (np.abs(target - middle) * self.preprocessing.spacing_mm < _LEAST_MOVE_MM).all():
            return None
        return np.array(look.grid.TransformContinuousIndexToPhysicalPoint(target.tolist()))


def _gland(probability: Tensor, grid: sitk.Image, threshold: float = 0.5) -> sitk.Image:
    """The largest connected part of what reaches the threshold in a look, as a mask on its grid."""
    found = sitk.GetImageFromArray(to_array((probability >= threshold).to(torch.uint8)))
    found.CopyInformation(grid)
    return keep_largest_component(found)


def _is_near_open_border(box: Box, grid: sitk.Image, scan: sitk.Image, margin_mm: float) -> NDArray[np.bool_]:
    """For each axis, whether a box is within the margin of a border of its grid beyond which the scan goes on."""
    low, high = box
    near = np.zeros(3, bool)
    for axis, (n, spacing_mm) in enumerate(zip(grid.GetSize(), grid.GetSpacing(), strict=True)):
        for distance, outside in ((low[axis], -1), (n - 1 - high[axis], n)):
            if distance * spacing_mm <= margin_mm:
                beyond = (low + high) / 2
                beyond[axis] = outside
                near[axis] |= _contains(scan, grid.TransformContinuousIndexToPhysicalPoint(beyond.tolist()))
    return near


def _contains(image: sitk.Image, point_mm: tuple[float, ...]) -> bool:
    index = image.TransformPhysicalPointToContinuousIndex(point_mm)
    return all(-0.5 <= i <= n - 0.5 for i, n in zip(index, image.GetSize(), strict=True))


def _warnings(mask: sitk.Image, volume_ml: float, gland: sitk.Image, prepared: sitk.Image) -> list[str]:
    """What a person has to know about a mask on the scan's grid and the gland that it was made of, on the crop's."""
    box, seen_box = bounding_box(mask), bounding_box(gland)
    if box is None or seen_box is None:
        return ["No prostate was found. Check that this is a T2-weighted MR scan of the pelvis."]
    warnings = []
    low, high = box
    if (low == 0).any() or (high == np.array(mask.GetSize()) - 1).any():
        warnings.append("The prostate touches the border of the scan: part of it may be missing.")
    if _is_near_open_border(seen_box, gland, prepared, 0).any():
        warnings.append("The prostate reaches the border of the field that the model sees: part of it may be missing.")
    if not _SMALLEST_GLAND_ML <= volume_ml <= _LARGEST_GLAND_ML:
        warnings.append(f"{volume_ml:.0f} ml is unusual for a prostate: check the mask.")
    if not _is_axial(prepared):
        warnings.append("The slices are not axial: check the mask, unless the model was trained on such scans.")
    return warnings


def _is_axial(prepared: sitk.Image) -> bool:
    """Whether the slices lie across the patient, as far as the spacing tells."""
    x_mm, y_mm, z_mm = prepared.GetSpacing()
    return max(x_mm, y_mm) <= _THICK_SLICES * z_mm


class _Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 3)
