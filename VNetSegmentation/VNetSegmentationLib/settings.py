"""What outlives a scene, in the application's settings: paths, formats, device. Widgets are bound to it."""

import qt
import slicer

from VNetSegmentationLib.timers import singleShotTimer

_GROUP = "VNetSegmentation"

_TYPING_MS = 600
"""A path that is being typed is not looked at before so much silence: its folder may be far away."""


def setting(name: str, default: str = "") -> str:
    """A stored text, or the default."""
    value = slicer.util.settingsValue(f"{_GROUP}/{name}", default)
    return default if value is None else str(value)


def setSetting(name: str, value: str) -> None:
    """Stores a text."""
    qt.QSettings().setValue(f"{_GROUP}/{name}", value)


def bindText(lineEdit, name: str, default: str) -> None:
    """A QLineEdit that remembers its text; an emptied one goes back to the default."""
    lineEdit.text = setting(name, default) or default
    lineEdit.connect("textChanged(QString)", lambda text: setSetting(name, text))


def bindPath(pathLineEdit, name: str, default: str = "") -> None:
    """A ctkPathLineEdit that remembers its path; an emptied one goes back to the default."""
    pathLineEdit.currentPath = setting(name, default) or default
    onPathChange(pathLineEdit, lambda: setSetting(name, pathLineEdit.currentPath))


def onPathChange(pathLineEdit, function) -> None:
    """Calls a function when a ctkPathLineEdit has another path, or none any more, which it does not call a change."""
    pathLineEdit.connect("currentPathChanged(QString)", lambda path: function())
    pathLineEdit.connect("validInputChanged(bool)", lambda isValid: None if isValid else function())


def afterPathChange(pathLineEdit, function):
    """As `onPathChange`, but once the path is no longer being typed; returns the timer that waits for it."""
    timer = singleShotTimer(_TYPING_MS, function)
    onPathChange(pathLineEdit, timer.start)
    return timer


def bindChoice(comboBox, name: str, choices: list[tuple[str, str]]) -> None:
    """A QComboBox with (text, value) choices that remembers the value, which `chosen` gives."""
    comboBox.clear()
    for text, value in choices:
        comboBox.addItem(text, value)
    choose(comboBox, setting(name, choices[0][1]))
    comboBox.connect("currentIndexChanged(int)", lambda index: setSetting(name, comboBox.itemData(index) or ""))


def refillChoice(comboBox, name: str, choices: list[tuple[str, str]]) -> None:
    """Gives a combo box of `bindChoice` other choices.

    What is not there today, such as a GPU in a dock, is still the user's wish tomorrow.
    """
    wish = setting(name, choices[0][1])
    wasBlocked = comboBox.blockSignals(True)
    comboBox.clear()
    for text, value in choices:
        comboBox.addItem(text, value)
    choose(comboBox, wish)
    comboBox.blockSignals(wasBlocked)


def bindNumber(spinBox, name: str) -> None:
    """A QSpinBox that remembers its value; the form gives the first one."""
    stored = setting(name)
    if stored.isdigit():
        spinBox.value = int(stored)
    spinBox.connect("valueChanged(int)", lambda value: setSetting(name, str(value)))


def chosen(comboBox) -> str | None:
    """The value of the chosen item; None if there is none."""
    return comboBox.itemData(comboBox.currentIndex)


def choose(comboBox, value: str) -> None:
    """Chooses the item with this value; leaves the choice if there is none."""
    for index in range(comboBox.count):
        if comboBox.itemData(index) == value:
            comboBox.currentIndex = index
            return
