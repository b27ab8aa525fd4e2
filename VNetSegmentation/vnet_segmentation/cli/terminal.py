"""What a person at a terminal sees of a long run, and how they stop it."""

from __future__ import annotations

import signal
import sys
import threading

from tqdm import tqdm

from vnet_segmentation.errors import Cancelled


def format_duration(seconds: float) -> str:
    """In the unit that people would name: "40 s", "12 min", "2.5 h"."""
    minutes = seconds / 60
    if minutes < 1.5:
        return f"{seconds:.0f} s"
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min"


class ProgressBar:
    """A progress bar where a person watches, and nothing where a file does."""

    def __init__(self) -> None:
        self._bar = tqdm(total=100, disable=not sys.stderr.isatty(), leave=False, bar_format="{l_bar}{bar}| {elapsed}")

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, fraction: float, sentence: str) -> None:
        # Not `update`, which leaves out what comes within a tenth of a second, the last sentence before a wait too.
        self._bar.n = round(100 * fraction)
        self._bar.set_description(sentence)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(line)
        sys.stdout.flush()


class Interrupt:
    """Turns Ctrl+C into a request to stop after the current iteration; a second one stops at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_set = self._event.is_set

    def check(self) -> None:
        """Raises `Cancelled` if a stop was asked for."""
        if self.is_set():
            raise Cancelled

    def __enter__(self) -> Interrupt:
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._event.set()
