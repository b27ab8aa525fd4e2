"""Texts of several lines in a panel that has little room."""


def showWrapped(label, text: str) -> None:
    """Shows a text in a label that wraps its lines, all of it.

    A form layout that is short of room gives such a label the height of its first line only.
    """
    label.text = text
    # The height that is asked for below is never less than the minimum.
    label.minimumHeight = 0
    label.minimumHeight = label.heightForWidth(label.width) if text else 0
