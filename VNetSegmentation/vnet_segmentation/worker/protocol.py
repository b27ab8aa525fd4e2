"""What goes between the panel and its worker: JSON objects, one a line.

A request has an ``id``, a ``command`` and the command's fields; the command "cancel" takes back the request of its id.
Events, each with the ``id`` of its request where there is one:

    started     the worker is there: pid, version, python
    failed      it cannot work at all: code, message
    begun       a request's turn has come
    progress    fraction (0 to 1), message
    case        one of several is finished: number, total, row
    training    iteration, fraction, loss, validation_dice, remaining_s
    result      the end: the command's own fields
    error       the end: code (an `ExitCode`, or null for a bug), message
    cancelled   the end
    idle        nothing was asked for a while: the worker ends
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from vnet_segmentation.errors import Cancelled

Request = dict[str, Any]


class Events(Protocol):
    """Where events go, see `worker.Worker`."""

    def send(self, event: str, **fields: Any) -> None:
        """Writes one event."""

    def is_cancelled(self, identity: Any) -> bool:
        """Whether a request is not wanted any more."""


class Channel:
    """The way back to whoever made a request.

    Args:
        worker: writes the events.
        identity: of the request.
    """

    def __init__(self, worker: Events, identity: Any) -> None:
        self._worker, self._identity = worker, identity

    @property
    def is_cancelled(self) -> bool:
        """The request was cancelled, or there is nobody left who could want its result."""
        return self._worker.is_cancelled(self._identity)

    def __call__(self, event: str, **fields: Any) -> None:
        """Sends an event: its name, and its fields by keyword. Raises `Cancelled` if the request was cancelled."""
        if self.is_cancelled:
            raise Cancelled
        self._worker.send(event, id=self._identity, **fields)


Command = Callable[[Request, Channel], dict[str, Any]]
"""Does what a request asks for and returns the fields of its result."""
