"""Questions and errors in a dialog, which nobody could close in a Slicer without a main window."""

import logging
import os

import qt
import slicer
from slicer.i18n import tr as _


def tellError(sentence: str) -> None:
    """Shows an error; without a main window it goes to the log."""
    if slicer.util.mainWindow() is None:
        logging.error(sentence)
    else:
        slicer.util.errorDisplay(sentence)


def tellWarning(sentence: str) -> None:
    """Shows a warning; without a main window it goes to the log."""
    if slicer.util.mainWindow() is None:
        logging.warning(sentence)
    else:
        slicer.util.warningDisplay(sentence)


def ask(question: str) -> bool:
    """Whether the user says yes; without a main window there is nobody who could."""
    return slicer.util.mainWindow() is not None and bool(slicer.util.confirmYesNoDisplay(question))


def chooseFile(title: str, folder: str, fileFilter: str) -> str:
    """The file to read that the user chooses; empty if they choose none, or if there is no main window."""
    window = slicer.util.mainWindow()
    return qt.QFileDialog.getOpenFileName(window, title, folder, fileFilter) if window is not None else ""


def chooseNewFile(title: str, suggestion: str, fileFilter: str, suffix: str) -> str:
    """The file to write that the user chooses, with the suffix; empty as for `chooseFile`.

    It may exist: then the user has agreed to replace it.
    """
    window = slicer.util.mainWindow()
    path = qt.QFileDialog.getSaveFileName(window, title, suggestion, fileFilter) if window is not None else ""
    if not path or path.lower().endswith(suffix):
        return path
    # Not every system's dialog adds it, and none has asked about a file with it.
    path += suffix
    return "" if os.path.exists(path) and not ask(_("{path} exists already. Replace it?").format(path=path)) else path
