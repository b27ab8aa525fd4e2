"""Labels that are as high as their text."""

from __future__ import annotations


def test_a_label_shrinks_again(panel):
    from VNetSegmentationLib.wrappedText import showWrapped

    label = panel.ui.statusLabel
    showWrapped(label, "one line")
    low = label.minimumHeight
    showWrapped(label, "what pip said " * 100)
    assert label.minimumHeight > 3 * low
    showWrapped(label, "one line")
    assert label.minimumHeight == low
