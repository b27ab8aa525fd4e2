"""Scans in, masks and tables out: what is to do, what became of it, and the work in one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from vnet_segmentation.atomic import check_writable, remove_leftovers
from vnet_segmentation.batch.cases import BatchOptions, Case, find_cases
from vnet_segmentation.batch.ownership import earlier_row, refused_row
from vnet_segmentation.batch.tables import TABLE_NAME, BatchRow, BatchTables, check_tables, failed_row, finished_row
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.mask_files import WRITABLE_SUFFIXES
from vnet_segmentation.images.scans import MASK_SUFFIX
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.scan_job import LoadedScan, alone_with, load_scan, segment_scan, write_results
from vnet_segmentation.segmentation.segmenter import Segmentation, Segmenter

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
    output folder have every scan that is finished, and keep the rows of earlier batches there. Masks go into the output
    folder, in sub-folders as the scans are in below the folder that all inputs have in common: the same inputs always
    give the same names. The mask of a scan that lies in the output folder itself lies beside it.

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
    run = BatchRun(inputs, output_folder, options, segmenter.description["weights"]["sha256"], report)
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
                finish = partial(write_case, case, scan, segment_scan(segmenter, scan, case.threshold, show))
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
        model: SHA-256 of the weights that segment.

    Raises:
        UserError: there are no scans.
    """

    def __init__(
        self, inputs: Sequence[Path], output_folder: Path, options: BatchOptions, model: str, report: ReportCallback
    ) -> None:
        self._cases = find_cases(inputs, output_folder, options)
        self._tables = BatchTables(output_folder, self._cases)
        self._model, self._report = model, report
        self._told = 0

    @property
    def rows(self) -> list[BatchRow]:
        """Of the scans that are finished, in the order of their paths."""
        return self._tables.rows

    @property
    def total(self) -> int:
        """How many scans there are, finished or not."""
        return len(self._cases)

    def begin(self) -> list[Case]:
        """Writes and tells what an earlier run has settled, and returns the rest."""
        for folder in {case.outputs.mask.parent for case in self._cases}:
            remove_leftovers(folder)
        settled = {case.scan: row for case in self._cases if (row := earlier_row(case, self._model))}
        self.settle(list(settled.values()))
        return [case for case in self._cases if case.scan not in settled]

    def settle(self, rows: Sequence[BatchRow]) -> None:
        """Records and tells; see `record` and `tell`."""
        self.record(rows)
        for row in rows:
            self.tell(row)

    def record(self, rows: Iterable[BatchRow]) -> None:
        """Writes both tables anew, with these rows.

        Raises:
            UserError: a table cannot be written.
        """
        self._tables.record(rows)

    def tell(self, row: BatchRow) -> None:
        """Tells the caller of one scan."""
        self._told += 1
        self._report(self._told, self.total, row)


def check_batch(inputs: Sequence[Path], output_folder: Path, options: BatchOptions) -> None:
    """Finds what would fail for every scan, before the model is loaded.

    Raises:
        UserError: an input that does not exist, a mask format that cannot be written, or a foreign file with a table's
            name.
    """
    for path in inputs:
        if not os.path.exists(path):
            raise UserError(f"There is no file or folder {path}. Check the path.", ExitCode.USAGE)
    # The suffix itself, not a name that ends in it: it must lead to no other folder.
    suffixes = (MASK_SUFFIX, *WRITABLE_SUFFIXES)
    if options.suffix.lower() not in suffixes:
        raise UserError(
            f"Masks cannot be written as {options.suffix}. Choose one of {', '.join(suffixes)}.", ExitCode.USAGE
        )
    check_writable(output_folder / TABLE_NAME)
    check_tables(output_folder)


def exit_code(rows: Iterable[BatchRow]) -> ExitCode:
    """What a batch ends with: an empty mask, be it of an earlier run, is a failure that a person has to look at."""
    failed = any(row.status == "failed" or (row.report or {}).get("volume_ml") == 0 for row in rows)
    return ExitCode.SOME_FAILED if failed else ExitCode.OK


def read_case(case: Case) -> LoadedScan:
    """The first step for a case that `BatchRun.begin` returned.

    Raises:
        UserError: the scan cannot be used, or the outputs cannot be written.
    """
    # What is there without the mask is of this scan, see `earlier_row`.
    case.outputs.check(case.scan, overwrite=True)
    # Without the sub-folders of a DICOM folder, which are cases of their own.
    return load_scan(case.scan, subfolders=False)


def write_case(case: Case, scan: LoadedScan, result: Segmentation) -> BatchRow:
    """The last step: writes the outputs, unless a batch that runs at the same time has put another scan's there."""
    try:
        with alone_with(case.outputs):
            return refused_row(case) or finished_row(case, write_results(scan, result, case.outputs))
    except Exception as error:
        return failed_row(case, error)


class _StoppedByCallerError(BaseException):
    """Carries what a callback raised past the handling of a scan's own errors."""


def _read_ahead(reader: ThreadPoolExecutor, cases: Iterable[Case]) -> Iterator[tuple[Case, Future[LoadedScan]]]:
    """Each case with its scan, while the next one is being read."""
    ahead = None
    for case in cases:
        current, ahead = ahead, (case, reader.submit(read_case, case))
        if current:
            yield current
    if ahead:
        yield ahead
