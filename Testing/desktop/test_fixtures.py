"""The desktop that tests get is a new one each time."""

from __future__ import annotations

import pytest


def test_a_closed_desktop_keeps_no_panel(desktop):
    shiboken6 = pytest.importorskip("shiboken6")
    from desktop.pythonqt import unwrap

    root = unwrap(desktop.open_module().parent)
    assert shiboken6.isValid(root)
    desktop.close()
    assert not shiboken6.isValid(root)
