"""Questions and errors in a dialog, which nobody could close in a Slicer without a main window."""

import logging

import slicer


def tellError(sentence: str) -> None:
    """Shows an error; without a main window it goes to the log."""
    if slicer.util.mainWindow() is None:
        logging.error(sentence)
    else:
        slicer.util.errorDisplay(sentence)


def ask(question: str) -> bool:
    """Whether the user says yes; without a main window there is nobody who could."""
    return slicer.util.mainWindow() is not None and bool(slicer.util.confirmYesNoDisplay(question))
