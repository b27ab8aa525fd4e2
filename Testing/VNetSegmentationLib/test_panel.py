"""The panel's own code on the desktop stand-in, with the real worker and the bundled model."""

from __future__ import annotations

import pytest


@pytest.fixture
def panel(desktop):
    return desktop.open_module()


def test_the_panel_opens_and_says_what_is_missing(panel):
    assert not panel.ui.segmentButton.enabled
    assert "Load" in panel.ui.statusLabel.text
