"""The main job without any data: a synthetic scan, segmented by the bundled model, against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import refuse_existing
from vnet_segmentation.images.mask_files import read_mask, write_mask, write_scan
from vnet_segmentation.images.metrics import dice
from vnet_segmentation.images.phantom import make_phantom
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.scan_job import Outputs, segment_file
from vnet_segmentation.segmentation.segmenter import Segmenter

DEMO_SEED = 0
"""The model has not been trained on this phantom: those have seeds from 1000."""


def check_demo(folder: Path, overwrite: bool) -> None:
    """Finds what would fail at the end, before the work begins.

    Raises:
        UserError: a place that cannot be written, or a file that exists.
    """
    scan_path, truth_path, outputs = _files(folder)
    if not overwrite:
        for path in (scan_path, truth_path):
            refuse_existing(path)
    outputs.check(scan_path, overwrite)


def run_demo(
    segmenter: Segmenter, folder: Path, threshold: float, progress: ProgressCallback
) -> tuple[dict[str, Any], float]:
    """Makes a phantom, segments it from its file and compares.

    Args:
        folder: gets phantom.nii.gz, the truth as phantom_segmentation.nii.gz, and the result: phantom_prostate.nii.gz,
            .png and .json. Those that are there are replaced; see `check_demo`.
        threshold: probability from which a voxel is prostate.

    Returns:
        The report, and the Dice between result and truth.
    """
    scan_path, truth_path, outputs = _files(folder)
    scan, truth = make_phantom(DEMO_SEED)
    write_scan(scan, scan_path)
    write_mask(truth, truth_path)
    report = segment_file(segmenter, scan_path, outputs, threshold, overwrite=True, progress=progress)
    # As written and read again, so that the demo covers the files too.
    return report, dice(read_mask(outputs.mask), read_mask(truth_path))


def _files(folder: Path) -> tuple[Path, Path, Outputs]:
    """Of the scan, of the truth, and of the result."""
    outputs = Outputs(
        mask=folder / "phantom_prostate.nii.gz",
        picture=folder / "phantom_prostate.png",
        report=folder / "phantom_prostate.json",
    )
    return folder / "phantom.nii.gz", folder / "phantom_segmentation.nii.gz", outputs
