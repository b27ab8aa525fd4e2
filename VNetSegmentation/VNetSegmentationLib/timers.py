"""Timers that take what comes in quick succession together."""

from collections.abc import Callable

import qt


def singleShotTimer(milliseconds: int, function: Callable[[], None]):
    """A timer that calls the function once after each start."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.connect("timeout()", function)
    return timer


def startOnce(timer) -> None:
    """Not anew where it runs: what comes faster than the timer must not hold it up."""
    if not timer.active:
        timer.start()
