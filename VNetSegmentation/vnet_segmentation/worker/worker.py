"""The process that the Slicer panel talks to: loads torch and a model once, and stays.

`python -m vnet_segmentation.worker`. Requests come in on standard input and events go out on standard output, each a
JSON object on a line of its own; the log goes to standard error. The process ends when its input closes, or when
nothing was asked of it for a while: with it goes all the memory, of a GPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import vnet_segmentation
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.worker.protocol import Channel, Command, Request

IDLE_MINUTES = 10.0
_GRACE_S = 3.0
"""For what is under way when the input closes; then the process ends, come what may."""


class Worker:
    """Takes requests one after another from a queue; a cancellation overtakes them.

    Args:
        output: gets the events.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._cancelled: set[Any] = set()
        self._input_closed = threading.Event()
        self._writing = threading.Lock()

    def send(self, event: str, **fields: Any) -> None:
        """Writes one event; without a reader it goes nowhere."""
        with self._writing, contextlib.suppress(BrokenPipeError):
            self._output.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
            self._output.flush()

    def is_cancelled(self, identity: Any) -> bool:
        """Whether this request is not wanted any more."""
        return identity in self._cancelled or self._input_closed.is_set()

    def read(self, lines: Iterable[str]) -> None:
        """Queues requests until the input closes; runs beside `serve` in a thread of its own."""
        try:
            for line in lines:
                if line.strip():
                    self._take(line)
        finally:
            self._input_closed.set()
            self._requests.put(None)

    def _take(self, line: str) -> None:
        try:
            request = json.loads(line)
            command, identity = request["command"], request["id"]
            if not isinstance(identity, str | int):
                raise TypeError(f"not an id: {identity}")
        except (ValueError, TypeError, KeyError, RecursionError):
            self.send("error", id=None, code=ExitCode.USAGE, message=f"Not a request: {line.strip()[:200]}")
            return
        if command == "cancel":
            self._cancelled.add(identity)
        else:
            self._requests.put(request)

    def serve(self, commands: dict[str, Command], idle_s: float) -> None:
        """Answers requests, one after another, until the input closes or nothing was asked for `idle_s`."""
        while True:
            try:
                request = self._requests.get(timeout=idle_s)
            except queue.Empty:
                self.send("idle")
                return
            if request is None:
                return
            self._answer(request, commands)

    def _answer(self, request: Request, commands: dict[str, Command]) -> None:
        identity = request.get("id")

        send = Channel(self, identity)
        try:
            command = commands.get(request["command"])
            if command is None:
                raise UserError(f"Unknown command {request['command']}.", ExitCode.USAGE)
            send("begun")
            result = command(request, send)
            self.send("result", id=identity, **result)
        except Cancelled:
            self.send("cancelled", id=identity)
        except UserError as error:
            self.send("error", id=identity, code=error.exit_code, message=str(error))
        except Exception as error:
            # Whatever happens to one request, the next must find the worker alive.
            traceback.print_exc()
            sentence = (
                f"An unexpected error stopped the work: {type(error).__name__}: {error}. The log has the details."
            )
            self.send("error", id=identity, code=None, message=sentence)


def main(arguments: Sequence[str]) -> int:
    """Runs the worker on the process's standard streams; returns the exit code."""
    parser = argparse.ArgumentParser(description="Serves the Slicer panel; made to be started by it.")
    parser.add_argument("--idle-minutes", type=float, default=IDLE_MINUTES, help="end after this time without work")
    options = parser.parse_args(arguments)
    # Whatever a library prints must not get between the events.
    # A scan's name need not be Unicode, but each line has to be.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", newline="\n")
    os.dup2(2, 1)
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]

    worker = Worker(output)
    # At once, so that the process can be killed while torch is being loaded; a launcher's own id would not do.
    worker.send("started", pid=os.getpid(), version=vnet_segmentation.__version__, python=platform.python_version())
    try:
        from vnet_segmentation.worker.commands import commands
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "vnet_segmentation":
            raise
        worker.send(
            "failed", code=ExitCode.MISSING_DEPENDENCY, message=f"The Python package {package} is missing. Install it."
        )
        return ExitCode.MISSING_DEPENDENCY
    except (ImportError, OSError) as error:
        # A torch whose libraries do not load: on Windows an OSError that names a DLL.
        worker.send(
            "failed",
            code=ExitCode.MISSING_DEPENDENCY,
            message=f"PyTorch is installed but does not load ({error}). Install it again.",
        )
        return ExitCode.MISSING_DEPENDENCY
    # Not before torch and numpy are there: on Windows their import hangs while a thread waits for standard input.
    threading.Thread(target=_read, args=(worker,), daemon=True).start()
    worker.serve(commands(), options.idle_minutes * 60)
    return ExitCode.OK


def _read(worker: Worker) -> None:
    worker.read(sys.stdin)
    # The panel is gone: what is under way gets a moment to leave no half file, no more.
    timer = threading.Timer(_GRACE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
