"""One scan file in, result files out.

Every file appears whole or not at all, and the mask last: where there is a mask, the rest is there too, so that an
interrupted batch knows what is done. Where one cannot be written, those that were are removed again. The report comes
first where there is no mask yet, so that what lies beside it is known to be this scan's; where a mask is replaced it
comes just before it, so that it tells of a mask that is there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

import vnet_segmentation
from vnet_segmentation.atomic import atomic_path, check_writable, refuse_existing
from vnet_segmentation.device import is_out_of_memory
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.mask_files import check_output_path, write_mask, write_probability
from vnet_segmentation.images.picture import write_picture
from vnet_segmentation.images.scans import read_scan_and_series
from vnet_segmentation.locks import alone
from vnet_segmentation.paths import check_name
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.inference import OUT_OF_MEMORY
from vnet_segmentation.segmentation.segmenter import Segmentation, Segmenter

_PATIENCE_S = 60.0
"""Writing takes a second or two."""


@dataclass(frozen=True)
class Outputs:
    """Files to write; None for those that are not wanted."""

    mask: Path
    probability: Path | None = None
    picture: Path | None = None
    report: Path | None = None

    @property
    def all(self) -> list[Path]:
        return [path for path in (self.probability, self.picture, self.report, self.mask) if path]

    def check(self, scan: Path, overwrite: bool) -> None:
        """Finds what would fail at the end, before the work begins.

        Raises:
            UserError: a format or a place that cannot be written, a file that exists, or the scan itself.
        """
        check_name(scan)
        check_output_path(self.mask)
        if self.probability:
            check_output_path(self.probability, segmentation=False)
        if self.picture and self.picture.suffix.lower() != ".png":
            raise UserError(f"The picture {self.picture} must end in .png.", ExitCode.USAGE)
        for path in (self.picture, self.report):
            if path:
                check_writable(path)
        if len({path.resolve() for path in self.all}) < len(self.all):
            raise UserError("Two outputs have the same name. Give each its own.", ExitCode.USAGE)
        for path in self.all:
            # The second, where they exist, for names that differ in case alone, and links.
            both_exist = os.path.exists(path) and os.path.exists(scan)
            if path.resolve() == scan.resolve() or (both_exist and path.samefile(scan)):
                raise UserError(f"{path} is the scan itself. Choose another output.", ExitCode.USAGE)
            if not overwrite:
                refuse_existing(path)


@dataclass(frozen=True)
class LoadedScan:
    """A scan in memory, and where it came from."""

    path: Path
    image: sitk.Image
    """See `scans.read_scan`."""
    series: str | None
    """Which DICOM series of a folder it is; None for a file."""
    seconds: float
    """That reading took."""


@contextmanager
def _memory_in_a_sentence() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # Outside of the network, which has a ladder of its own: a scan of 512 voxels a side takes 0.5 GB a copy.
        if is_out_of_memory(error):
            raise UserError(OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY) from error
        raise


def segment_file(
    segmenter: Segmenter,
    scan_path: Path,
    outputs: Outputs,
    threshold: float = 0.5,
    series: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = lambda fraction, sentence: None,
    subfolders: bool = True,
) -> dict[str, Any]:
    """Segments a scan file, or a folder of DICOM slices, and writes the results.

    A batch takes the same three steps, those of neighbouring cases at the same time.

    Args:
        series, subfolders: DICOM series to take, see `dicom.read_series`.

    Returns:
        The report, see Docs/reference.md.

    Raises:
        UserError: a scan that cannot be used, or an output that cannot be written; no file is there then that was not
            there before. Or the memory is too small (`ExitCode.OUT_OF_MEMORY`).
    """
    outputs.check(scan_path, overwrite)
    scan = load_scan(scan_path, series, subfolders)
    result = segment_scan(segmenter, scan, threshold, progress)
    with alone_with(outputs):
        # Another process may have written there since.
        outputs.check(scan_path, overwrite)
        return write_results(scan, result, outputs)


def alone_with(outputs: Outputs) -> AbstractContextManager[None]:
    """Keeps other processes from the files, where the file system has locks: between a look at whose they are and the
    writing of the last one, nobody else writes any of them."""
    return alone(outputs.mask.with_name(f".{outputs.mask.name}.lock"), _PATIENCE_S)


@_memory_in_a_sentence()
def load_scan(path: Path, series: str | None = None, subfolders: bool = True) -> LoadedScan:
    """The first step: reads and checks a scan; arguments and errors are those of `segment_file`."""
    started = time.perf_counter()
    image, chosen = read_scan_and_series(path, series, subfolders)
    return LoadedScan(path, image, chosen, time.perf_counter() - started)


@_memory_in_a_sentence()
def segment_scan(segmenter: Segmenter, scan: LoadedScan, threshold: float, progress: ProgressCallback) -> Segmentation:
    """The second step: computes; writes nothing. Arguments and errors are those of `segment_file`."""
    return segmenter.segment(scan.image, threshold, progress)


@_memory_in_a_sentence()
def write_results(scan: LoadedScan, result: Segmentation, outputs: Outputs) -> dict[str, Any]:
    """The third step: writes the outputs and returns the report; errors are those of `segment_file`."""
    started = time.perf_counter()
    report = _file_report(scan, outputs, result)
    with _nothing_left_of_a_failure(outputs):
        replaces = outputs.mask.exists()
        if not replaces:
            _write_report(report, outputs)
        if outputs.probability:
            write_probability(result.probability, outputs.probability)
        if outputs.picture:
            write_picture(scan.image, result.mask, outputs.picture)
        if replaces:
            _write_report(report, outputs)
        write_mask(result.mask, outputs.mask)
    report["seconds"]["write"] = round(time.perf_counter() - started, 3)
    return report


@contextmanager
def _nothing_left_of_a_failure(outputs: Outputs) -> Iterator[None]:
    """Removes the files that were written before an error, or Ctrl+C, but for those that replaced one."""
    # Where they are written: a link stays.
    new = [Path(os.path.realpath(path)) for path in outputs.all if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _write_report(report: dict[str, Any], outputs: Outputs) -> None:
    if outputs.report:
        with atomic_path(outputs.report) as temporary:
            temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _file_report(scan: LoadedScan, outputs: Outputs, result: Segmentation) -> dict[str, Any]:
    return {
        "scan": str(scan.path),
        "series": scan.series,
        "size": list(scan.image.GetSize()),
        "spacing_mm": [round(spacing, 4) for spacing in scan.image.GetSpacing()],
        "mask": str(outputs.mask),
        **result.report,
        "seconds": {"read": round(scan.seconds, 3), **result.report["seconds"]},
        "version": vnet_segmentation.__version__,
    }
