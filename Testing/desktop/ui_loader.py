"""`slicer.util.loadUI`."""

from __future__ import annotations

import functools
import operator
import os
import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools

from desktop import ctk_widgets, mrml_widgets
from desktop.pythonqt import Wrapper, wrap

CUSTOM_WIDGETS = {
    name: cls
    for module in (ctk_widgets, mrml_widgets)
    for name, cls in vars(module).items()
    if name.startswith(("ctk", "qMRML"))
}


class _Loader(QtUiTools.QUiLoader):
    def createWidget(self, class_name, parent=None, name=""):  # Qt's name
        custom = CUSTOM_WIDGETS.get(class_name)
        if custom is None:
            if not class_name.startswith("Q"):
                raise AssertionError(f"the stand-in has no widget {class_name}")
            return super().createWidget(class_name, parent, name)
        widget = custom(parent)
        widget.setObjectName(name)
        return widget


def load_ui(path: str) -> Wrapper:
    """The root widget of a form, of its real type; the form's connections of scene widgets are made."""
    if not os.path.exists(path):
        # As slicer.util.loadUI.
        raise RuntimeError(f"Could not find UI file: {path}")
    form = ElementTree.parse(path).getroot()
    connections = list(form.iter("connection"))
    filters = {node.get("name"): node.find("property[@name='filters']/set") for node in form.iter("widget")}
    _remove_what_only_slicers_plugins_read(form)
    buffer = QtCore.QBuffer()
    buffer.setData(ElementTree.tostring(form))
    buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
    loader = _Loader()
    widget = loader.load(buffer, None)
    assert widget is not None, loader.errorString()
    widget._loader = loader  # Python's parts of custom widgets live as long as it does
    for name, flags in filters.items():
        if flags is not None:
            path_edit = _named(widget, name)
            values = (getattr(path_edit, flag.rpartition("::")[2]) for flag in flags.text.split("|"))
            path_edit.filters = functools.reduce(operator.or_, values)
    for connection in connections:
        sender = _named(widget, connection.findtext("sender"))
        receiver = _named(widget, connection.findtext("receiver"))
        signal = connection.findtext("signal").partition("(")[0]
        slot = connection.findtext("slot").partition("(")[0]
        getattr(sender, signal).connect(getattr(receiver, slot))
    return wrap(widget)


def _remove_what_only_slicers_plugins_read(form: ElementTree.Element) -> None:
    """Connections of nodes and scenes, which are made here, and the filters of paths, too."""
    for parent in list(form.iter()):
        for child in list(parent):
            if child.tag == "connections" or (child.tag == "property" and child.get("name") == "filters"):
                parent.remove(child)


def _named(root: QtCore.QObject, name: str) -> QtCore.QObject:
    found = root if root.objectName() == name else root.findChild(QtCore.QObject, name)
    assert found is not None, f"the form has no {name}"
    return found
