"""Scans in, masks and tables out: what is to do, what became of it, and the work in one process."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import vnet_segmentation
from vnet_segmentation.atomic import atomic_path, remove_leftovers
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.mask_files import check_output_path
from vnet_segmentation.scan_job import LoadedScan, Outputs, load_scan, segment_scan, write_results
from vnet_segmentation.scans import find_scans, scan_stem
from vnet_segmentation.segmenter import ProgressCallback, Segmentation, Segmenter

TABLE_NAME = "results.csv"
TABLE_COLUMNS = ("scan", "status", "volume_ml", "confidence", "seconds", "mask", "message")
REPORTS_NAME = "results.json"
STATUSES = ("done", "empty", "skipped", "failed")

_PROGRAM = {"program": "vnet-segmentation", "version": vnet_segmentation.__version__}
_OWN_BEGINNINGS = {TABLE_NAME: ",".join(TABLE_COLUMNS), REPORTS_NAME: '{"program": "vnet-segmentation"'}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchOptions:
    """Which scans a batch takes, and what it writes for each."""

    suffix: str = ".nii.gz"
    """Format of the masks; see `mask_files`."""
    threshold: float = 0.5
    pictures: bool = False
    probabilities: bool = False
    overwrite: bool = False
    """Segment scans again that have a mask already; otherwise they are left alone, so a batch can be resumed."""
    pattern: str = "*"
    """The names of the files or DICOM folders to take, as a shell has it; upper and lower case are the same."""


@dataclass(frozen=True)
class Case:
    """One scan of a batch."""

    name: str
    """The scan's path below the folder that all inputs have in common."""
    scan: Path
    outputs: Outputs
    threshold: float


@dataclass(frozen=True)
class BatchRow:
    """What became of one scan."""

    name: str
    """See `Case`."""
    scan: Path
    status: str
    """"done", "empty" (no prostate found), "skipped" (had a mask already) or "failed"."""
    mask: Path | None
    """None if the scan failed."""
    report: dict[str, Any] | None
    """See Docs/reference.md; of a skipped scan, that of the earlier run. None if there is none."""
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "scan": str(self.scan),
            "status": self.status,
            "mask": str(self.mask) if self.mask else None,
            "message": self.message,
            "report": self.report,
        }

    def as_table_row(self) -> dict[str, Any]:
        """The values of `TABLE_COLUMNS`."""
        report = self.report or {}
        seconds = report.get("seconds", {})
        return {
            "scan": self.scan,
            "status": self.status,
            "volume_ml": report.get("volume_ml", ""),
            "confidence": report.get("confidence", {}).get("value", ""),
            "seconds": round(sum(seconds.values()), 2) if seconds else "",
            "mask": self.mask or "",
            "message": self.message,
        }


ReportCallback = Callable[[int, int, BatchRow], None]
"""Told after each scan: how many are finished, how many there are, and what became of this one."""


def run_batch(
    segmenter: Segmenter,
    inputs: Sequence[Path],
    output_folder: Path,
    options: BatchOptions,
    report: ReportCallback = lambda number, total, row: None,
    progress: ProgressCallback = lambda fraction, sentence: None,
) -> list[BatchRow]:
    """Segments scans; while one is computed, the next is read and the last one written.

    A scan that fails is named with its reason and does not stop the rest. `results.csv` and `results.json` in the
    output folder have every scan that is finished. Masks go into the output folder, in sub-folders as the scans are in
    below the folder that all inputs have in common: the same inputs always give the same names. The mask of a scan that
    lies in the output folder itself lies beside it.

    Args:
        inputs: scan files, DICOM folders, and folders that are searched with their sub-folders.
        report: told of each scan in the calling thread.
        progress: told of the scan that is being computed, as `Segmenter.segment` does. Whatever either of these raises,
            such as `errors.Cancelled`, ends the batch, after the scan that is being written.

    Returns:
        A row per scan, in the order of their paths.

    Raises:
        UserError: there are no scans, or the tables cannot be written.
    """
    run = BatchRun(inputs, output_folder, options, report)
    cases = run.begin()
    reader, writer = ThreadPoolExecutor(1, "batch-reader"), ThreadPoolExecutor(1, "batch-writer")
    writing: Future[BatchRow] | None = None

    def finish_and_record(finish: Callable[[], BatchRow]) -> BatchRow:
        row = finish()
        run.record([row])
        return row

    def show(fraction: float, sentence: str) -> None:
        nonlocal writing
        try:
            if writing and writing.done():
                written, writing = writing, None
                run.tell(written.result())
            progress(fraction, sentence)
        except Exception as error:
            raise _StoppedByCallerError from error

    try:
        for case, reading in _read_ahead(reader, cases):
            try:
                scan = reading.result()
                finish = partial(_write, case, scan, segment_scan(segmenter, scan, case.threshold, show))
            except Exception as error:
                finish = partial(failed_row, case, error)
            # What is computed is on its way to the disk before the caller, who may want to stop, hears of anything.
            previous, writing = writing, writer.submit(finish_and_record, finish)
            if previous:
                run.tell(previous.result())
        if writing:
            run.tell(writing.result())
    except _StoppedByCallerError as stopped:
        raise stopped.__cause__ or stopped from None
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
    return run.rows


class BatchRun:
    """The bookkeeping of a batch, wherever it computes.

    Args:
        inputs, output_folder, options, report: see `run_batch`.

    Raises:
        UserError: there are no scans.
    """

    def __init__(
        self, inputs: Sequence[Path], output_folder: Path, options: BatchOptions, report: ReportCallback
    ) -> None:
        self._cases = find_cases(inputs, output_folder, options)
        self._folder = output_folder
        self._overwrite = options.overwrite
        self._report = report
        self._rows: dict[Path, BatchRow] = {}
        self._lines: dict[Path, str] = {}
        self._told = 0

    @property
    def rows(self) -> list[BatchRow]:
        """Of the scans that are finished, in the order of their paths."""
        return [self._rows[case.scan] for case in self._cases if case.scan in self._rows]

    @property
    def total(self) -> int:
        """How many scans there are, finished or not."""
        return len(self._cases)

    def begin(self) -> list[Case]:
        """Writes and tells what an earlier run has settled, and returns the rest."""
        for folder in {case.outputs.mask.parent for case in self._cases}:
            remove_leftovers(folder)
        settled = {case.scan: row for case in self._cases if (row := _settled_earlier(case, self._overwrite))}
        self.settle(list(settled.values()))
        return [case for case in self._cases if case.scan not in settled]

    def settle(self, rows: Sequence[BatchRow]) -> None:
        """Records and tells."""
        self.record(rows)
        for row in rows:
            self.tell(row)

    def record(self, rows: Iterable[BatchRow]) -> None:
        """Writes both tables anew, with these rows.

        Raises:
            UserError: a table cannot be written.
        """
        for row in rows:
            self._rows[row.scan] = row
            # Each report becomes text once, not again with every later one: a batch may have ten thousand.
            self._lines[row.scan] = json.dumps(row.as_dict(), ensure_ascii=False)
        self._write_table()
        self._write_reports()

    def tell(self, row: BatchRow) -> None:
        """Tells the caller of one scan."""
        self._told += 1
        self._report(self._told, self.total, row)

    def _write_table(self) -> None:
        with (
            atomic_path(self._folder / TABLE_NAME) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, TABLE_COLUMNS)
            table.writeheader()
            table.writerows(row.as_table_row() for row in self.rows)

    def _write_reports(self) -> None:
        rows = self.rows
        statuses = Counter(row.status for row in rows)
        counts = {status: statuses[status] for status in STATUSES}
        head = json.dumps({**_PROGRAM, "total": self.total, "counts": counts})
        lines = ",\n".join(self._lines[row.scan] for row in rows)
        with atomic_path(self._folder / REPORTS_NAME) as temporary:
            temporary.write_text(f'{head[:-1]}, "rows": [\n{lines}\n]}}\n', "utf-8")


def check_batch(inputs: Sequence[Path], output_folder: Path, options: BatchOptions) -> None:
    """Finds what would fail for every scan, before the model is loaded.

    Raises:
        UserError: an input that does not exist, a mask format that cannot be written, or a foreign file with a table's
            name.
    """
    for path in inputs:
        if not path.exists():
            raise UserError(f"There is no file or folder {path}. Check the path.", ExitCode.USAGE)
    check_output_path(output_folder / f"mask{options.suffix}")
    for name, beginning in _OWN_BEGINNINGS.items():
        table = output_folder / name
        if table.exists() and not _begins_with(table, beginning):
            raise UserError(
                f"{table} exists already and is not of a batch. Choose another folder, or move it away.",
                ExitCode.CANNOT_WRITE,
            )


def exit_code(rows: Iterable[BatchRow]) -> ExitCode:
    """What a batch ends with: an empty mask, be it of an earlier run, is a failure that a person has to look at."""
    failed = any(row.status == "failed" or (row.report or {}).get("volume_ml") == 0 for row in rows)
    return ExitCode.SOME_FAILED if failed else ExitCode.OK


def find_cases(inputs: Sequence[Path], output_folder: Path, options: BatchOptions) -> list[Case]:
    """The scans of a batch, each once and in the order of their paths, with the files to write.

    Raises:
        UserError: there are none.
    """
    # Absolute, and the same for two spellings of one path: so the tables, and workers elsewhere, find the files.
    inputs = [Path(os.path.abspath(path)) for path in inputs]
    output_folder = Path(os.path.abspath(output_folder))
    scans = sorted({scan for path in inputs for scan in (find_scans(path) if path.is_dir() else [path])})
    names = _names(inputs, scans, output_folder)
    # Of all scans, before the pattern: a mask's name does not depend on what else a run takes.
    bases = _mask_bases(names)
    cases = [
        Case(name.as_posix(), scan, _outputs(output_folder / base, options), options.threshold)
        for scan, name, base in zip(scans, names, bases, strict=True)
        if fnmatchcase(scan.name.lower(), options.pattern.lower())
    ]
    if not cases:
        places = ", ".join(str(path) for path in inputs[:3]) + ", ..." * (len(inputs) > 3)
        like = "" if options.pattern == "*" else f" with a name like {options.pattern}"
        raise UserError(
            f"There are no scans{like} in {places}. Known formats are NIfTI, NRRD, MetaImage and DICOM.", ExitCode.USAGE
        )
    return cases


def finished_row(case: Case, report: dict[str, Any]) -> BatchRow:
    """The row of a scan whose results are written."""
    status = "empty" if report["volume_ml"] == 0 else "done"
    return BatchRow(case.name, case.scan, status, case.outputs.mask, report, " ".join(report["warnings"]))


def failed_row(case: Case, error: Exception) -> BatchRow:
    """The row of a scan that an error ended; what the user cannot mend goes into the log, too."""
    message = str(error)
    if not isinstance(error, UserError):
        _log.error("An unexpected error at %s", case.scan, exc_info=error)
        message = f"An unexpected error: {type(error).__name__}: {message}. The log has the details."
    return BatchRow(case.name, case.scan, "failed", None, None, message)


class _StoppedByCallerError(BaseException):
    """Carries what a callback raised past the handling of a scan's own errors."""


def _read_ahead(reader: ThreadPoolExecutor, cases: Iterable[Case]) -> Iterator[tuple[Case, Future[LoadedScan]]]:
    """Each case with its scan, while the next one is being read."""
    ahead = None
    for case in cases:
        current, ahead = ahead, (case, reader.submit(_read, case))
        if current:
            yield current
    if ahead:
        yield ahead


def _read(case: Case) -> LoadedScan:
    # Extras of an interrupted run may be there without their mask: they are replaced.
    case.outputs.check(case.scan, overwrite=True)
    return load_scan(case.scan)


def _write(case: Case, scan: LoadedScan, result: Segmentation) -> BatchRow:
    try:
        return finished_row(case, write_results(scan, result, case.outputs))
    except Exception as error:
        return failed_row(case, error)


def _settled_earlier(case: Case, overwrite: bool) -> BatchRow | None:
    """The row of a case that needs no work or must not get any, because its mask is there; None for the others."""
    if not case.outputs.mask.exists():
        return None
    report = _earlier_report(case.outputs.report)
    owner = Path((report or {}).get("scan", ""))
    # A scan that has moved is not there any more under its old name, and is still the same one.
    if owner.is_absolute() and owner.exists() and not owner.samefile(case.scan):
        return failed_row(
            case,
            UserError(f"{case.outputs.mask} is the mask of another scan, {owner}. Choose another output folder."),
        )
    if overwrite:
        return None
    return BatchRow(case.name, case.scan, "skipped", case.outputs.mask, report, "had a mask already")


def _names(inputs: Sequence[Path], scans: Sequence[Path], output_folder: Path) -> list[Path]:
    """Below the inputs' common folder; of a scan in the output folder below that: its mask lies beside it."""
    inside = {scan for scan in scans if scan.is_relative_to(output_folder)}
    outside = [path for path in inputs if not path.is_relative_to(output_folder)]
    try:
        common = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in outside or inputs]))
    except ValueError as error:
        raise UserError("The inputs are on different drives. Run a batch for each drive.", ExitCode.USAGE) from error
    # A folder of DICOM slices may be an input itself.
    root = common.parent if common in scans else common
    return [scan.relative_to(output_folder if scan in inside else root) for scan in scans]


def _mask_bases(names: Sequence[Path]) -> list[Path]:
    """A mask's path, without its suffix, for each scan; where two would be the same, they have the scans' suffixes."""
    stems = [(name.parent, scan_stem(name)) for name in names]
    full = [(name.parent, name.name) for name in names]
    taken = Counter(base for pair in zip(stems, full, strict=True) for base in set(pair))
    chosen = [stem if taken[stem] == 1 else whole for stem, whole in zip(stems, full, strict=True)]
    return [folder / f"{name}_prostate" for folder, name in chosen]


def _outputs(base: Path, options: BatchOptions) -> Outputs:
    def beside(ending: str) -> Path:
        return base.with_name(base.name + ending)

    return Outputs(
        mask=beside(options.suffix),
        probability=beside("_probability.nii.gz") if options.probabilities else None,
        picture=beside(".png") if options.pictures else None,
        report=beside(".json"),
    )


def _earlier_report(path: Path | None) -> dict[str, Any] | None:
    try:
        report = json.loads(path.read_text("utf-8")) if path else None
        return report if isinstance(report, dict) else None
    except (OSError, ValueError):
        return None


def _begins_with(path: Path, beginning: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(len(beginning)) == beginning
    except (OSError, ValueError):
        return False
