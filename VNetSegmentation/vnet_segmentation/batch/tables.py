"""What became of the scans of a batch: a row for each, in a table for people and one for programs."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import vnet_segmentation
from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.batch.cases import Case
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.locks import alone

TABLE_NAME = "results.csv"
TABLE_COLUMNS = (
    "scan",
    "status",
    "volume_ml",
    "confidence",
    "confidence_level",
    "seconds",
    "mask",
    "message",
)
REPORTS_NAME = "results.json"
STATUSES = ("done", "empty", "skipped", "failed")

_LOCK_NAME = ".results.lock"
_PATIENCE_S = 20.0
"""The tables of ten thousand scans are read and written in three seconds."""

_PROGRAM = {"program": "vnet-segmentation", "version": vnet_segmentation.__version__}
_OWN_BEGINNINGS = {TABLE_NAME: "scan,status,volume_ml,", REPORTS_NAME: '{"program": "vnet-segmentation"'}

_NOT_UNICODE = "backslashreplace"
"""What becomes of a name that is not Unicode: for JSON "\\udce4" is the same name."""

_log = logging.getLogger(__name__)


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

    @staticmethod
    def from_dict(row: dict[str, Any]) -> BatchRow:
        """The inverse of `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: it is not what `as_dict` gave.
        """
        if row["status"] not in STATUSES or not (row["report"] is None or is_report(row["report"])):
            raise ValueError(f"Not a row of a batch: {row}")
        mask = row["mask"] and Path(row["mask"])
        return BatchRow(row["name"], Path(row["scan"]), row["status"], mask, row["report"], row["message"])

    def as_table_row(self) -> dict[str, Any]:
        """The values of `TABLE_COLUMNS`."""
        report = self.report or {}
        confidence = report.get("confidence", {})
        # Not that of writing, which a report on the disk, and so a scan that is skipped, does not have.
        seconds = [value for stage, value in report.get("seconds", {}).items() if stage != "write"]
        return {
            "scan": self.scan,
            "status": self.status,
            "volume_ml": report.get("volume_ml", ""),
            "confidence": confidence.get("value", ""),
            "confidence_level": confidence.get("level", ""),
            "seconds": round(sum(seconds), 2) if seconds else "",
            "mask": self.mask or "",
            "message": self.message,
        }


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


class BatchTables:
    """Both tables of an output folder, written anew with each row that comes.

    Rows of other batches in the same folder, earlier ones and those that run now, stay, as long as what they tell of is
    there.

    Args:
        folder: see `check_tables`.
        cases: those of this batch, in the order of the table.
    """

    def __init__(self, folder: Path, cases: Sequence[Case]) -> None:
        self._folder = Path(os.path.abspath(folder))
        self._scans = [case.scan for case in cases]
        self._own = set(self._scans)
        self._rows: dict[Path, BatchRow] = {}
        self._lines: dict[Path, str] = {}
        self._others: dict[str, BatchRow] = {}
        """Of other batches, by their lines."""
        self._known: tuple[int, ...] | None = None
        """The state of the table whose rows of other batches are here."""
        self._has_written = self._is_behind = False

    @property
    def rows(self) -> list[BatchRow]:
        """Of the scans of this batch that are finished, in the order of the table."""
        return [self._rows[scan] for scan in self._scans if scan in self._rows]

    def record(self, rows: Iterable[BatchRow]) -> None:
        """Writes both tables anew, with these rows. One that another program has open on Windows, as Excel may, gets
        them with later ones.

        Raises:
            UserError: a table cannot be written: the first time, with the last rows, or for another reason.
        """
        for row in rows:
            self._rows[row.scan] = row
            # Each report becomes text once, not again with every later one: a batch may have ten thousand.
            self._lines[row.scan] = _as_line(row)
        with alone(self._folder / _LOCK_NAME, _PATIENCE_S, keeps=lambda: not self._is_complete):
            self._read_others()
            try:
                self._write()
            except UserError as error:
                is_open_elsewhere = self._has_written and isinstance(error.__cause__, PermissionError)
                if self._is_complete or not is_open_elsewhere:
                    raise
                if not self._is_behind:
                    _log.warning("%s The batch goes on. If the file is open elsewhere, close it.", error)
                self._is_behind = True
            else:
                self._has_written, self._is_behind = True, False
            self._known = self._state()

    @property
    def _is_complete(self) -> bool:
        return len(self._rows) == len(self._scans)

    def _read_others(self) -> None:
        # Another batch's writing alone makes reading necessary.
        if self._state() == self._known:
            return
        rows = _stored_rows(self._folder)
        self._others = {_as_line(row): row for row in rows if row.scan not in self._own}

    def _state(self) -> tuple[int, ...] | None:
        """Another one with each writing."""
        try:
            status = (self._folder / REPORTS_NAME).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _write(self) -> None:
        # A mask has one row; another's stays as long as this batch has not taken its mask or written it anew.
        masks = {row.mask for row in self.rows if row.mask}
        others = {line: row for line, row in self._others.items() if row.mask not in masks}
        shown = [*others.values(), *self.rows]
        statuses = Counter(row.status for row in shown)
        counts = {status: statuses[status] for status in STATUSES}
        total = len(others) + len(self._scans)
        head = json.dumps({**_PROGRAM, "folder": str(self._folder), "total": total, "counts": counts})
        lines = ",\n".join([*others, *(self._lines[row.scan] for row in self.rows)])
        with atomic_path(self._folder / REPORTS_NAME) as temporary:
            temporary.write_text(f'{head[:-1]}, "rows": [\n{lines}\n]}}\n', "utf-8", _NOT_UNICODE)
        # Last, since it is the one that people open.
        with (
            atomic_path(self._folder / TABLE_NAME) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors=_NOT_UNICODE) as file,
        ):
            table = csv.DictWriter(file, TABLE_COLUMNS)
            table.writeheader()
            table.writerows(row.as_table_row() for row in shown)


def check_tables(folder: Path) -> None:
    """Raises `UserError` if a table would replace a file that is not of a batch."""
    for name, beginning in _OWN_BEGINNINGS.items():
        table = folder / name
        if os.path.exists(table) and not _begins_with(table, beginning):
            raise UserError(
                f"{table} exists already and is not of a batch. Choose another folder, or move it away.",
                ExitCode.CANNOT_WRITE,
            )


def is_report(report: Any) -> bool:
    """Whether this is a report of this program, as far as the tables need it. See Docs/reference.md."""
    match report:
        case {
            "scan": str(),
            "volume_ml": int() | float(),
            "threshold": int() | float(),
            "model": {"name": str(), "sha256": str()},
            "confidence": {"value": int() | float(), "level": str()},
            "seconds": dict() as seconds,
            "warnings": list() as warnings,
            "version": str(),
        }:
            numbers = all(isinstance(value, int | float) for value in seconds.values())
            return numbers and all(isinstance(warning, str) for warning in warnings)
    return False


def _stored_rows(folder: Path) -> list[BatchRow]:
    """Rows that batches left, of masks, or of scans without one, that are there still."""
    try:
        content = json.loads((folder / REPORTS_NAME).read_text("utf-8"))
        stored, was_in = list(content["rows"]), Path(content["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    rows = []
    for fields in stored:
        # One that another version wrote otherwise costs no other its place.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = BatchRow.from_dict(fields)
            if row.mask and row.mask.is_relative_to(was_in):
                # The folder may have moved, or be mounted elsewhere.
                row = replace(row, mask=Path(os.path.abspath(folder)) / row.mask.relative_to(was_in))
            if os.path.exists(row.mask or row.scan):
                rows.append(row)
    return rows


def _as_line(row: BatchRow) -> str:
    return json.dumps(row.as_dict(), ensure_ascii=False)


def _begins_with(path: Path, beginning: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(len(beginning)) == beginning
    except (OSError, ValueError):
        return False
