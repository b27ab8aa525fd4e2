"""Dialogs, which are recorded and answered by the test, never shown."""

from __future__ import annotations

from typing import Any

dialogs: list[tuple[str, str]] = []
"""Kind and text of each dialog that would have been shown; for one that asks for a path, its title."""

answers: dict[str, Any] = {}
"""Of dialogs that ask, by kind. Where there is none: True, as if the user agreed, or no path, as if they closed it."""


def show(kind: str) -> Any:
    """A function of `slicer.util` that shows a text."""

    def shown(text: str, *arguments: Any, **keywords: Any) -> Any:
        assert isinstance(text, str)
        dialogs.append((kind, text))
        return answers.get(kind, True)

    return shown


class QFileDialog:
    """`qt.QFileDialog`: PythonQt's static functions give the path alone."""

    @staticmethod
    def _choose(kind: str, title: str) -> str:
        dialogs.append((kind, title))
        return answers.get(kind, "")

    @staticmethod
    def getOpenFileName(parent: Any = None, title: str = "", folder: str = "", filters: str = "") -> str:
        return QFileDialog._choose("getOpenFileName", title)

    @staticmethod
    def getSaveFileName(parent: Any = None, title: str = "", path: str = "", filters: str = "") -> str:
        return QFileDialog._choose("getSaveFileName", title)

    @staticmethod
    def getExistingDirectory(parent: Any = None, title: str = "", folder: str = "") -> str:
        return QFileDialog._choose("getExistingDirectory", title)
