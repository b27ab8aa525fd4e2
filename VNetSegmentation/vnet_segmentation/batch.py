"""A folder of scans in, a folder of masks and a table out, in one process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.mask_files import check_output_path
from vnet_segmentation.scan_job import Outputs, segment_file
from vnet_segmentation.scans import find_scans, scan_stem
from vnet_segmentation.segmenter import Segmenter

TABLE_NAME = "results.csv"
TABLE_COLUMNS = ("scan", "status", "volume_ml", "confidence", "seconds", "mask", "message")


@dataclass(frozen=True)
class BatchOptions:
    """What a batch writes for each scan."""

    suffix: str = ".nii.gz"
    """Format of the masks; see `mask_files`."""
    threshold: float = 0.5
    pictures: bool = False
    probabilities: bool = False
    overwrite: bool = False
    """Segment scans again that have a mask already; otherwise they are left alone, so a batch can be resumed."""


@dataclass(frozen=True)
class BatchRow:
    """What became of one scan."""

    scan: Path
    status: str
    """"done", "empty" (no prostate found), "skipped" (had a mask already) or "failed"."""
    mask: Path
    report: dict[str, Any] | None
    message: str

    def as_table_row(self) -> dict[str, Any]:
        report = self.report or {}
        seconds = report.get("seconds", {})
        return {
            "scan": self.scan,
            "status": self.status,
            "volume_ml": report.get("volume_ml", ""),
            "confidence": report.get("confidence", {}).get("value", ""),
            "seconds": round(sum(seconds.values()), 2) if seconds else "",
            "mask": self.mask if self.status != "failed" else "",
            "message": self.message,
        }


def run_batch(
    segmenter: Segmenter,
    folder: Path,
    output_folder: Path,
    options: BatchOptions,
    report: Callable[[int, int, BatchRow], None] = lambda number, total, row: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[BatchRow]:
    """Segments every scan of a folder, each sub-folder into one of the same name.

    A scan that fails is named with its reason and does not stop the rest. The table `results.csv` in the output
    folder is complete after each scan.

    Args:
        report: told after each scan: its number from 1, how many there are, and what became of it.
        should_stop: asked before each scan.

    Returns:
        A row per scan that was reached.

    Raises:
        UserError: there are no scans, or the table cannot be written.
    """
    scans = find_scans(folder)
    if not scans:
        raise UserError(f"There are no scans in {folder}. Known formats are NIfTI, NRRD, MetaImage and DICOM.")
    masks = _mask_paths(scans, folder, output_folder, options.suffix)
    rows: list[BatchRow] = []
    for number, (scan, mask) in enumerate(zip(scans, masks, strict=True), start=1):
        if should_stop():
            break
        rows.append(_segment_one(segmenter, scan, mask, options))
        _write_table(rows, output_folder / TABLE_NAME)
        report(number, len(scans), rows[-1])
    return rows


def check_batch(folder: Path, output_folder: Path, options: BatchOptions) -> None:
    """Finds what would fail for every scan, before the model is loaded.

    Raises:
        UserError: no such folder, a mask format that cannot be written, or a foreign file with the table's name.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    check_output_path(output_folder / f"mask{options.suffix}")
    table = output_folder / TABLE_NAME
    if table.exists() and not _is_own_table(table):
        raise UserError(
            f"{table} exists already and is not of a batch. Choose another folder, or move it away.",
            ExitCode.CANNOT_WRITE,
        )


def exit_code(rows: Sequence[BatchRow]) -> ExitCode:
    """What a batch ends with: an empty mask, be it of an earlier run, is a failure that a person has to look at."""
    failed = any(row.status == "failed" or (row.report or {}).get("volume_ml") == 0 for row in rows)
    return ExitCode.SOME_FAILED if failed else ExitCode.OK


def _segment_one(segmenter: Segmenter, scan: Path, mask: Path, options: BatchOptions) -> BatchRow:
    base = mask.name.removesuffix(options.suffix)
    outputs = Outputs(
        mask,
        probability=mask.with_name(f"{base}_probability.nii.gz") if options.probabilities else None,
        picture=mask.with_name(f"{base}.png") if options.pictures else None,
        report=mask.with_name(f"{base}.json"),
    )
    if mask.exists() and not options.overwrite:
        return BatchRow(scan, "skipped", mask, _earlier_report(outputs.report), "had a mask already")
    try:
        # Extras of an interrupted run may be there without their mask: they are replaced.
        report = segment_file(segmenter, scan, outputs, options.threshold, overwrite=True)
    except UserError as error:
        return BatchRow(scan, "failed", mask, None, str(error))
    return BatchRow(scan, "empty" if report["volume_ml"] == 0 else "done", mask, report, " ".join(report["warnings"]))


def _mask_paths(scans: Sequence[Path], folder: Path, output_folder: Path, suffix: str) -> list[Path]:
    """A mask for each scan; scans of one stem and different formats get the format into the name."""
    # The folder itself may be a scan, if it holds DICOM slices: then its mask goes into the output folder, too.
    places = [output_folder / (scan.relative_to(folder).parent if scan != folder else "") for scan in scans]
    plain = [place / f"{scan_stem(scan)}_prostate{suffix}" for place, scan in zip(places, scans, strict=True)]
    full = [
        place / f"{scan.name or scan.resolve().name}_prostate{suffix}"
        for place, scan in zip(places, scans, strict=True)
    ]
    return [short if plain.count(short) == 1 else long for short, long in zip(plain, full, strict=True)]


def _earlier_report(path: Path | None) -> dict[str, Any] | None:
    try:
        report = json.loads(path.read_text("utf-8")) if path else None
        return report if isinstance(report, dict) else None
    except (OSError, ValueError):
        return None


def _is_own_table(path: Path) -> bool:
    try:
        return path.read_text("utf-8").startswith(",".join(TABLE_COLUMNS))
    except (OSError, ValueError):
        return False


def _write_table(rows: Sequence[BatchRow], path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, TABLE_COLUMNS)
        table.writeheader()
        table.writerows(row.as_table_row() for row in rows)
