"""The main job: a scan in, a mask on the scan's own grid and a report out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.masks import bounding_box, mask_from_probability, slice_axis
from vnet_segmentation.images.measurements import measure
from vnet_segmentation.images.preprocessing import Preprocessing, prepare, to_scan_grid
from vnet_segmentation.models.bundle import load_bundle
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.confidence import confidence, confidence_report
from vnet_segmentation.segmentation.inference import Predictor
from vnet_segmentation.segmentation.search import (
    LARGEST_GLAND_ML,
    SMALLEST_GLAND_ML,
    Search,
    gland_mask,
    is_near_open_border,
)


@dataclass(frozen=True)
class Segmentation:
    """The result for one scan; both images have the scan's exact size, spacing, origin and direction."""

    mask: sitk.Image
    """uint8: 1 in the prostate, 0 elsewhere."""
    probability: sitk.Image
    """float32 in [0, 1]; 0 outside the field that the network saw."""
    report: dict[str, Any]
    """Plain values, see Docs/reference.md."""


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
            find = Search(self._predictor, self.preprocessing, prepared, progress).find()
            look, second = find.look, find.second
        progress(0.85, "Drawing the mask on the scan")
        with stopwatch.time("mask"):
            mean = (look.probability + second) / 2
            probability = to_scan_grid(mean, look.grid, scan)
            mask = mask_from_probability(probability, threshold)
            measurements = measure(mask)
        warnings = list(self._predictor.steps_down)
        warnings += _warnings(mask, measurements.volume_ml, gland_mask(mean, look.grid, threshold), prepared)
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


def _warnings(mask: sitk.Image, volume_ml: float, gland: sitk.Image, prepared: sitk.Image) -> list[str]:
    """What a person has to know about a mask on the scan's grid and the gland that it was made of, on the crop's."""
    box, seen_box = bounding_box(mask), bounding_box(gland)
    if box is None or seen_box is None:
        return ["No prostate was found. Check that this is a T2-weighted MR scan of the pelvis."]
    warnings = []
    low, high = box
    if (low == 0).any() or (high == np.array(mask.GetSize()) - 1).any():
        warnings.append("The prostate touches the border of the scan: part of it may be missing.")
    if is_near_open_border(seen_box, gland, prepared, 0).any():
        warnings.append("The prostate reaches the border of the field that the model sees: part of it may be missing.")
    if not SMALLEST_GLAND_ML <= volume_ml <= LARGEST_GLAND_ML:
        warnings.append(f"{volume_ml:.0f} ml is unusual for a prostate: check the mask.")
    if not _is_axial(prepared):
        warnings.append("The slices are not axial: check the mask, unless the model was trained on such scans.")
    return warnings


def _is_axial(prepared: sitk.Image) -> bool:
    """Whether the slices lie across the patient, as far as the spacing tells."""
    return slice_axis(prepared) == 2


class _Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 3)
