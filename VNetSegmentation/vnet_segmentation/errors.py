"""What can go wrong by the user's hand, and the exit codes that tell a script so."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

_MAX_NAMES = 8


class ExitCode(IntEnum):
    """Exit codes of the command line and of headless runs."""

    OK = 0
    """All went well."""
    SOME_FAILED = 1
    """A batch had scans that failed, or in which no prostate was found; scans that had a mask already count as done."""
    USAGE = 2
    """Wrong use: an unknown option, format, device or preset; options that do not go together; a batch without scans,
    or a Dask scheduler that does not answer."""
    MISSING_DEPENDENCY = 3
    """A Python package is missing."""
    BAD_INPUT = 4
    """A scan, mask, data set or checkpoint cannot be used; the sentence says why."""
    BAD_MODEL = 5
    """A model is missing, damaged or foreign."""
    EMPTY_RESULT = 6
    """No prostate was found; the mask was written and is empty."""
    CANNOT_WRITE = 7
    """A file cannot be written, or exists already."""
    OUT_OF_MEMORY = 8
    """The memory is too small."""
    CANCELLED = 130
    """Stopped with Ctrl+C; the sentence says how to go on, where that is possible."""


class UserError(Exception):
    """Something the user can mend.

    The message is a sentence or two for the user: what was wrong, and what to do. Everything else that is
    raised is a bug and keeps its traceback.

    Args:
        argument: name of the one that is the way out, where the message says so in other words: each door to the engine
            has its own for it.
    """

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.BAD_INPUT, argument: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.argument = argument


class Cancelled(Exception):
    """The work was stopped, by a progress callback that raises this or by what asks whether to stop. Files already
    written stay. The message, if there is one, says how to go on."""


def list_names(names: Sequence[str]) -> str:
    """For a sentence: the first few, and how many more there are."""
    return ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
