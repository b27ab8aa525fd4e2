"""Widgets by name, where PythonQt gives children that are none."""

from __future__ import annotations

from types import SimpleNamespace


def _widget(name: str, *children: object, kind: str = "QWidget") -> SimpleNamespace:
    return SimpleNamespace(objectName=name, className=lambda: kind, children=lambda: list(children))


def test_what_is_null_or_has_no_children_is_passed_over(desktop):
    from VNetSegmentationLib.formWidgets import formWidgets

    button = _widget("button")
    ui = formWidgets(_widget("root", None, object(), _widget("", button)))
    assert vars(ui) == {"button": button}


def test_the_segment_editor_is_there_and_what_is_in_it_is_not(desktop):
    from VNetSegmentationLib.formWidgets import formWidgets

    editor = _widget("editor", _widget("button"), kind="qMRMLSegmentEditorWidget")
    assert vars(formWidgets(_widget("root", editor))) == {"editor": editor}
