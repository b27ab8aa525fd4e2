"""The main job without any data: a synthetic scan, segmented by the bundled model, against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk

from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.mask_files import read_mask
from vnet_segmentation.metrics import dice
from vnet_segmentation.phantom import make_phantom
from vnet_segmentation.scan_job import Outputs, segment_file
from vnet_segmentation.segmenter import ProgressCallback, Segmenter

DEMO_SEED = 0
"""The model has not been trained on this phantom: those have seeds from 1000."""


def run_demo(segmenter: Segmenter, folder: Path, progress: ProgressCallback) -> tuple[dict[str, Any], float]:
    """Makes a phantom, segments it from its file and compares.

    Args:
        folder: gets scan.nii.gz, truth.nii.gz, scan_prostate.nii.gz, scan_prostate.png and scan_prostate.json; earlier
            ones are replaced.

    Returns:
        The report, and the Dice between result and truth.
    """
    scan, truth = make_phantom(DEMO_SEED)
    for image, name in ((scan, "scan.nii.gz"), (truth, "truth.nii.gz")):
        with atomic_path(folder / name) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=True)
    outputs = Outputs(
        mask=folder / "scan_prostate.nii.gz",
        picture=folder / "scan_prostate.png",
        report=folder / "scan_prostate.json",
    )
    report = segment_file(segmenter, folder / "scan.nii.gz", outputs, overwrite=True, progress=progress)
    # As written and read again, so that the demo covers the files too.
    return report, dice(read_mask(outputs.mask), read_mask(folder / "truth.nii.gz"))
