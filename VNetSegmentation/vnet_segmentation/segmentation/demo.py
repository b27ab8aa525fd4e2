"""The main job without any data: a synthetic scan, segmented by the bundled model, against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vnet_segmentation.images.mask_files import read_mask, write_mask, write_scan
from vnet_segmentation.images.metrics import dice
from vnet_segmentation.images.phantom import make_phantom
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.scan_job import Outputs, segment_file
from vnet_segmentation.segmentation.segmenter import Segmenter

DEMO_SEED = 0
"""The model has not been trained on this phantom: those have seeds from 1000."""


def run_demo(
    segmenter: Segmenter, folder: Path, threshold: float, progress: ProgressCallback
) -> tuple[dict[str, Any], float]:
    """Makes a phantom, segments it from its file and compares.

    Args:
        folder: gets phantom.nii.gz, the truth as phantom_segmentation.nii.gz, and the result: phantom_prostate.nii.gz,
            .png and .json. Earlier ones are replaced; no scan of a user's is likely to have such a name.
        threshold: probability from which a voxel is prostate.

    Returns:
        The report, and the Dice between result and truth.
    """
    scan_path, truth_path = folder / "phantom.nii.gz", folder / "phantom_segmentation.nii.gz"
    scan, truth = make_phantom(DEMO_SEED)
    write_scan(scan, scan_path)
    write_mask(truth, truth_path)
    outputs = Outputs(
        mask=folder / "phantom_prostate.nii.gz",
        picture=folder / "phantom_prostate.png",
        report=folder / "phantom_prostate.json",
    )
    report = segment_file(segmenter, scan_path, outputs, threshold, overwrite=True, progress=progress)
    # As written and read again, so that the demo covers the files too.
    return report, dice(read_mask(outputs.mask), read_mask(truth_path))
