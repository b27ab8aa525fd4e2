"""A batch on a Dask cluster that the user has. Nothing else here needs Dask."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from vnet_segmentation.batch.cases import BatchOptions, Case
from vnet_segmentation.batch.run import BatchRun, ReportCallback, read_case, write_case
from vnet_segmentation.batch.tables import BatchRow, failed_row
from vnet_segmentation.device import choose_device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models.bundle import read_description
from vnet_segmentation.models.library import find_model
from vnet_segmentation.progress import ProgressCallback
from vnet_segmentation.segmentation.scan_job import segment_scan
from vnet_segmentation.segmentation.segmenter import Segmenter

try:
    from distributed import Client, Future, KilledWorker, get_worker
    from distributed import TimeoutError as NotYet
except ImportError as missing:
    raise UserError(
        'The Python package dask is missing. Install it: pip install "dask[distributed]"',
        ExitCode.MISSING_DEPENDENCY,
    ) from missing

CONNECT_S = 10
_POLL_S = 0.2
_FETCH_S = 2

_one_case_at_a_time = threading.Lock()
"""In this process: each takes all the threads, or the GPU, that the process has."""


@dataclass(frozen=True)
class ModelChoice:
    """What every worker loads."""

    model: str | None
    """A name that all workers know, or a folder that they all see; None for the bundled one."""
    device: str = "auto"
    precision: str = "auto"


def run_batch_on_cluster(
    address: str,
    choice: ModelChoice,
    inputs: Sequence[Path],
    output_folder: Path,
    options: BatchOptions,
    report: ReportCallback = lambda number, total, row: None,
    progress: ProgressCallback = lambda fraction, sentence: None,
) -> list[BatchRow]:
    """`batch.run.run_batch` on many machines: workers read the scans and write the masks, this process the tables.

    A case whose worker dies is given to another one. One that takes several workers with it is tried once more when it
    is alone, since others may have died of its neighbour; then it counts as failed.

    Args:
        address: of the scheduler, such as "tcp://host:8786".
        inputs, output_folder: under the same paths on every machine.
        progress: told several times a second the part of the batch that is done, 0 to 1, and a sentence. Whatever it or
            `report` raises ends the batch; cases that workers are at by then may still be finished there.

    Raises:
        UserError: no scheduler answers, it has gone, or the workers have no such model or no `vnet_segmentation`; and
            as `batch.run.run_batch`.
    """
    # Before anything is sent: a slip in a name is answered at once.
    folder = find_model(choice.model)
    model = read_description(folder)["weights"]["sha256"]
    if choice.model and folder == Path(choice.model):
        choice = ModelChoice(os.path.abspath(folder), choice.device, choice.precision)
    run = BatchRun(inputs, output_folder, options, model, report)
    with _connect(address) as client:
        for case in _segment_all(client, choice, run.begin(), run, progress):
            # Once more, alone: it may have died of its neighbour on a worker.
            for killer in _segment_all(client, choice, [case], run, progress):
                error = UserError("Every worker that took it died, perhaps for lack of memory. Run the batch again.")
                run.settle([failed_row(killer, error)])
    return run.rows


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise UserError(
            f"No Dask scheduler answers at {address}. Check the address, and that the scheduler runs.", ExitCode.USAGE
        ) from error


def _segment_all(
    client: Client, choice: ModelChoice, cases: Sequence[Case], run: BatchRun, progress: ProgressCallback
) -> list[Case]:
    """Has cases segmented and settles them, but for those that died with several workers, which it returns."""
    # Keys of one group, which the scheduler hands out as workers get free, and not all at once.
    group = f"segment-{uuid.uuid4().hex}"
    futures = client.map(
        _segment_case, cases, choice=choice, key=[(group, number) for number in range(len(cases))], pure=False
    )
    pending: dict[Future[BatchRow], Case] = dict(zip(futures, cases, strict=True))
    # Only `pending` holds them: a row that has arrived is not computed again if its worker dies.
    del futures
    killers = []
    try:
        while pending:
            _show_progress(client, run, progress)
            rows = []
            for future in [future for future in pending if future.done()]:
                try:
                    rows.append(_fetch(future))
                except KilledWorker:
                    killers.append(pending[future])
                except NotYet:
                    # Its worker died before it gave the row away: another one computes it.
                    continue
                del pending[future]
            if rows:
                run.settle(rows)
            else:
                time.sleep(_POLL_S)
    finally:
        client.cancel(list(pending))
    return killers


def _show_progress(client: Client, run: BatchRun, progress: ProgressCallback) -> None:
    try:
        n_workers = len(client.nthreads())
    except OSError as error:
        raise _gone() from error
    n_finished = len(run.rows)
    progress(n_finished / run.total, f"{n_finished} of {run.total} scans, {n_workers} Dask workers")


def _fetch(future: Future[BatchRow]) -> BatchRow:
    """The row of a case.

    Raises:
        KilledWorker: several workers died with the case.
        NotYet: the row is not there any more, or the network is slow.
        UserError: what other cases will not be spared either.
    """
    try:
        row: BatchRow = future.result(timeout=_FETCH_S)
        return row
    except (UserError, KilledWorker, NotYet):
        raise
    except CancelledError as error:
        raise _gone() from error
    except Exception as error:
        # The function that a worker calls keeps a case's own errors: this one is of the call itself.
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"The cluster cannot run vnet_segmentation ({type(error).__name__}: {first_line}). "
            f"Install the same versions of it and of Dask on the scheduler and on all workers.",
            ExitCode.MISSING_DEPENDENCY,
        ) from error


def _gone() -> UserError:
    return UserError(
        "The Dask scheduler has gone. Start it and run the batch again: it goes on where it stopped.",
        ExitCode.SOME_FAILED,
    )


def _segment_case(case: Case, choice: ModelChoice) -> BatchRow:
    """What a worker does."""
    with _one_case_at_a_time:
        # As many as the user gave this process; Dask tells other libraries to take one.
        torch.set_num_threads(get_worker().state.nthreads)
        folder = find_model(choice.model)
        segmenter = _load(folder, choice.device, choice.precision, (folder / "model.json").stat().st_mtime_ns)
        try:
            scan = read_case(case)
            return write_case(case, scan, segment_scan(segmenter, scan, case.threshold, lambda *_: None))
        except Exception as error:
            return failed_row(case, error)


@lru_cache(maxsize=1)
def _load(folder: Path, device: str, precision: str, changed_ns: int) -> Segmenter:
    """The model stays loaded from case to case; one that was trained again under its old name is another one."""
    return Segmenter(folder, choose_device(device, precision))
