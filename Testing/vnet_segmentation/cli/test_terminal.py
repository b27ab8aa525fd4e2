"""What a long run says at a terminal, and how Ctrl+C ends it."""

from __future__ import annotations

import io
import signal
import sys

import pytest

from vnet_segmentation.cli.terminal import Interrupt, ProgressBar, format_duration
from vnet_segmentation.errors import Cancelled


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (89 * 60, "89 min"), (90 * 60, "1.5 h"), (36_000, "10.0 h")],
)
def test_a_time_has_the_unit_that_people_would_name(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_ctrl_c_asks_for_a_stop_and_a_second_one_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        interrupt.check()
        assert not interrupt.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupt.is_set()
        with pytest.raises(Cancelled):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_file_gets_the_lines_but_no_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with ProgressBar() as bar:
        bar.show(0.5, "Searching")
        bar.say("[1/2] a: done")
    assert log.getvalue() == ""
    assert capsys.readouterr().out == "[1/2] a: done\n"


def test_a_person_sees_the_bar_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressBar() as bar:
        bar.show(0.25, "Searching")
        bar.show(1.0, "Searching")
    for shown in ("Searching:  25%", "Searching: 100%"):
        assert shown in screen.getvalue()
