"""Where in a scan the gland is: looks of the network, moved and compared until two agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from vnet_segmentation.arrays import to_array
from vnet_segmentation.images.masks import Box, bounding_box, keep_largest_component
from vnet_segmentation.images.preprocessing import Preprocessing, centre_mm, crop
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.confidence import agreement
from vnet_segmentation.segmentation.inference import Predictor

Point = NDArray[np.float64]
"""(x, y, z) in mm, LPS."""

_MARGIN_MM = 12.0
"""A gland that comes nearer than this to the border of the field, where the scan goes on, is looked at again."""
_MAX_MOVES = 3
_SECOND_LOOK_SHIFT_MM = (8.0, 8.0, 9.0)
"""Along x, y, z: half of the deepest stage's stride and less. A mirrored look from the same place agrees with the first
even where both are wrong."""
_LEAST_MOVE_MM = 2.0
"""Less is no other look."""
SMALLEST_GLAND_ML, LARGEST_GLAND_ML = 10.0, 350.0
"""Beyond either a person is told; less than the first is looked for elsewhere, too, and what is more than the second is
compared last."""
_CONVINCING = 0.88
"""Of the agreement. Where there is no gland, the model may take something else for one, of up to about 60 ml, but two
looks at it seldom agree so well; if they do not, the gland is looked for elsewhere."""
_MAX_SEARCH_LOOKS, _MAX_CANDIDATES = 64, 6
"""About a minute on two cores."""
_SAME_GLAND_MM = 20.0
"""Nearer than this to each other, the middles of two finds are of one gland."""


@dataclass(frozen=True)
class Look:
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
class Find:
    """A look at what may be the gland, and a second one that says how sure that is."""

    look: Look
    second: Tensor
    """The probability in the field of the first look, seen from another place."""

    @property
    def score(self) -> float:
        """How well both agree, in [0, 1]; 0 for what is too small."""
        return agreement(self.look.probability, self.second, 0.5) if self.look.gland_ml >= SMALLEST_GLAND_ML else 0.0


class Search:
    """Looks at one scan.

    Args:
        predictor: the network.
        preprocessing: the model's.
        scan: see `preprocessing.prepare`.
        progress: told the part of the whole segmentation that is done, and a sentence, before each look.
    """

    def __init__(
        self, predictor: Predictor, preprocessing: Preprocessing, scan: sitk.Image, progress: ProgressCallback
    ) -> None:
        self._predictor, self._preprocessing = predictor, preprocessing
        self._scan, self._progress = scan, progress

    def find(self) -> Find:
        """What is most likely the gland; the field at the scan's centre if there is none."""
        finds = [self._examine(centre_mm(self._scan), self._progress)]
        if finds[0].score >= _CONVINCING:
            return finds[0]
        candidates: list[tuple[bool, float, Point]] = []
        points = self._search_points()
        for number, point in enumerate(points):
            self._progress(0.5 + 0.3 * number / len(points), "Looking for the prostate in the rest of the scan")
            look = self._look(point)
            if look.gland_middle_mm is not None:
                candidates.append((look.gland_ml <= LARGEST_GLAND_ML, look.gland_ml, look.gland_middle_mm))
        for *_, middle_mm in sorted(candidates, key=lambda candidate: candidate[:2], reverse=True):
            known_mm = [find.look.gland_middle_mm for find in finds if find.look.gland_middle_mm is not None]
            if any(np.linalg.norm(middle_mm - known) < _SAME_GLAND_MM for known in known_mm):
                continue
            finds.append(self._examine(middle_mm, lambda *_: self._progress(0.8, "Comparing what may be the prostate")))
            if finds[-1].score >= _CONVINCING or len(finds) > _MAX_CANDIDATES:
                break
        return max(finds, key=lambda find: find.score)

    def _examine(self, point_mm: Point, progress: ProgressCallback) -> Find:
        progress(0.15, "Looking for the prostate")
        look = self._centred(self._look(point_mm), progress)
        progress(0.5, "Looking a second time")
        return Find(look, self._second_look(look))

    def _centred(self, look: Look, progress: ProgressCallback) -> Look:
        """A look at the same gland from where it is not near the field's border, as far as that goes."""
        for _ in range(_MAX_MOVES):
            target = self._better_centre(look)
            if target is None:
                return look
            progress(0.3, "Moving to the prostate")
            moved = self._look(target)
            # A second look that loses the gland is no better look.
            if moved.gland_ml < look.gland_ml / 2:
                return look
            look = moved
        return look

    def _look(self, point_mm: Point) -> Look:
        image, grid = crop(self._scan, point_mm, self._preprocessing)
        probability = self._probability(image)
        gland = gland_mask(probability, grid)
        voxel_ml = math.prod(self._preprocessing.spacing_mm) / 1000
        volume_ml = np.count_nonzero(sitk.GetArrayViewFromImage(gland)) * voxel_ml
        return Look(probability, grid, bounding_box(gland), volume_ml)

    def _second_look(self, look: Look) -> Tensor:
        """The probability in `look`'s field as seen from a shifted field, left and right exchanged."""
        shift_mm, spacing_mm = np.array(_SECOND_LOOK_SHIFT_MM), np.array(self._preprocessing.spacing_mm)
        x, y, z = (max(1, round(steps)) for steps in shift_mm / spacing_mm)
        middle = [(n - 1) / 2 + steps for n, steps in zip(self._preprocessing.size, (x, y, z), strict=True)]
        centre = np.array(look.grid.TransformContinuousIndexToPhysicalPoint(middle))
        shifted, _ = crop(self._scan, centre, self._preprocessing)
        seen = self._probability(shifted.flip(2)).flip(2)
        # At the near borders, which the shifted field does not reach, the first look stands.
        second = look.probability.clone()
        second[z:, y:, x:] = seen[:-z, :-y, :-x]
        return second

    def _probability(self, image: Tensor) -> Tensor:
        """The network's answer to a crop; none where that has no contrast, as in padding, of which the network, which
        never saw such, takes half for a gland."""
        return self._predictor.probability(image) if image.any() else torch.zeros_like(image)

    def _search_points(self) -> list[Point]:
        """Centres of overlapping fields, but for the one in the middle, that cover the scan; the nearest to the middle
        alone if they are very many."""
        steps_mm = []
        for n, spacing, seen_mm in zip(
            self._scan.GetSize(), self._scan.GetSpacing(), self._preprocessing.extent_mm, strict=True
        ):
            reach_mm = (n * spacing - seen_mm) / 2
            # Neighbours share at least half of what they see, so that one of them has the gland well inside.
            n_steps = math.ceil(4 * reach_mm / seen_mm) if reach_mm > _MARGIN_MM else 0
            steps_mm.append(np.linspace(-reach_mm, reach_mm, n_steps + 1) if n_steps else np.zeros(1))
        nearest_first = sorted(product(*steps_mm), key=lambda offset_mm: math.hypot(*offset_mm))
        middle, axes = centre_mm(self._scan), np.array(self._scan.GetDirection()).reshape(3, 3)
        points = [middle + axes @ offset_mm for offset_mm in nearest_first if any(offset_mm)]
        return points[:_MAX_SEARCH_LOOKS]

    def _better_centre(self, look: Look) -> Point | None:
        """The gland's middle along the axes where it is near a border of the field beyond which the scan goes on."""
        if look.gland is None:
            return None
        low, high = look.gland
        middle = (np.array(self._preprocessing.size) - 1) / 2
        target = np.where(is_near_open_border(look.gland, look.grid, self._scan, _MARGIN_MM), (low + high) / 2, middle)
        if (np.abs(target - middle) * self._preprocessing.spacing_mm < _LEAST_MOVE_MM).all():
            return None
        return np.array(look.grid.TransformContinuousIndexToPhysicalPoint(target.tolist()))


def gland_mask(probability: Tensor, grid: sitk.Image, threshold: float = 0.5) -> sitk.Image:
    """The largest connected part of what reaches the threshold in a look, as a mask on its grid."""
    found = sitk.GetImageFromArray(to_array((probability >= threshold).to(torch.uint8)))
    found.CopyInformation(grid)
    return keep_largest_component(found)


def is_near_open_border(box: Box, grid: sitk.Image, scan: sitk.Image, margin_mm: float) -> NDArray[np.bool_]:
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
