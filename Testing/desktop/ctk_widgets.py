"""The widgets of CTK that the panel uses, with their properties and signals."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from desktop.dialogs import QFileDialog


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A titled area that folds; its content is in its own layout."""

    contentsCollapsed = Signal(bool)
    _TITLE_HEIGHT = 26
    _WANTED = "visibilityToParent"
    """Property of a child that somebody has shown or hidden: whether it is to be seen while the area is open."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False
        self._text = ""
        self._forcing_visibility = self._watches_children = False
        self.setContentsMargins(0, self._TITLE_HEIGHT, 0, 0)
        self._title = QtWidgets.QToolButton(self)
        self._title.setObjectName("")
        self._title.setAutoRaise(True)
        self._title.setToolButtonStyle(QtCore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._title.clicked.connect(lambda: self._set_collapsed(not self._collapsed))
        self._show_title()

    def _get_text(self):
        return self._text

    def _set_text(self, text):
        self._text = text
        self._show_title()

    def _get_collapsed(self):
        return self._collapsed

    def _set_collapsed(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._apply()
        self.contentsCollapsed.emit(collapsed)

    def _apply(self):
        self.setMaximumHeight(self._TITLE_HEIGHT if self._collapsed else 16777215)
        # Before it was shown once nothing can be hidden.
        if self._watches_children:
            for child in self._content():
                self._set_child_visibility(child)
        self._show_title()

    def _content(self):
        children = self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly)
        return [child for child in children if child is not self._title]

    def _set_child_visibility(self, child):
        wanted = child.property(self._WANTED) is not False
        self._forcing_visibility = True
        child.setVisible(wanted and not self._collapsed)
        if wanted:
            child.setAttribute(QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide, False)
        self._forcing_visibility = False

    def eventFilter(self, child, event):
        """A child that is shown while the area is folded is hidden again until it unfolds."""
        if not self._forcing_visibility:
            if event.type() == QtCore.QEvent.Type.ShowToParent:
                child.setProperty(self._WANTED, True)
                self._set_child_visibility(child)
            elif event.type() == QtCore.QEvent.Type.HideToParent:
                child.setProperty(self._WANTED, False)
        return False

    def setVisible(self, visible):
        self._forcing_visibility = True
        super().setVisible(visible)
        self._forcing_visibility = False

    def showEvent(self, event):
        if not self._watches_children:
            self._watches_children = True
            for child in self._content():
                if child.isHidden() and child.testAttribute(QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide):
                    child.setProperty(self._WANTED, False)
                child.installEventFilter(self)
            self._apply()
        super().showEvent(event)

    def resizeEvent(self, event):
        self._title.setGeometry(0, 0, self.width(), self._TITLE_HEIGHT - 2)
        super().resizeEvent(event)

    def _show_title(self):
        self._title.setText(self._text)
        arrow = QtCore.Qt.ArrowType.RightArrow if self._collapsed else QtCore.Qt.ArrowType.DownArrow
        self._title.setArrowType(arrow)
        self._title.setStyleSheet("QToolButton { background: palette(midlight); text-align: left; font-weight: bold; }")

    text = Property(str, _get_text, _set_text)
    collapsed = Property(bool, _get_collapsed, _set_collapsed)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path and a button that browses."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    # Of its filters, those of QDir.
    Dirs, Files, Drives, NoSymLinks, AllEntries = 0x1, 0x2, 0x4, 0x8, 0x7
    Readable, Writable, Executable, Hidden, NoDot, NoDotDot = 0x10, 0x20, 0x40, 0x100, 0x2000, 0x4000

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox(editable=True)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.editTextChanged.connect(self._changed)
        self._has_valid_input = False
        layout.addWidget(self._combo)
        browse = QtWidgets.QToolButton()
        browse.setText("...")
        browse.clicked.connect(self.browse)
        layout.addWidget(browse)
        self._filters = self.AllEntries
        self._minimum_length = 0
        self._minimum_hint = None
        self._browse = browse
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)

    def minimumSizeHint(self):
        """Asked for the first time it is wide enough for the whole path, unless a length was set, and stays so."""
        if self._minimum_hint is None:
            metrics = self.fontMetrics()
            if self._minimum_length:
                width = self._minimum_length * metrics.horizontalAdvance("X")
            elif self._get_path():
                width = metrics.boundingRect(self._get_path()).width() + 8
            else:
                width = 7 * metrics.horizontalAdvance("x")
            arrow = 30
            width += arrow + self._browse.minimumSizeHint().width()
            self._minimum_hint = QtCore.QSize(width, self._combo.minimumSizeHint().height())
        return self._minimum_hint

    def _set_minimum_length(self, length):
        self._minimum_length = length

    def _get_path(self):
        return self._combo.currentText()

    def _set_path(self, path):
        self._combo.setEditText(path)

    def _get_filters(self):
        return self._filters

    def _set_filters(self, filters):
        self._filters = filters

    def _changed(self, path):
        # An empty path is no valid input, of which only the second signal tells.
        was_valid, self._has_valid_input = self._has_valid_input, bool(path)
        if path:
            self.currentPathChanged.emit(path)
        if was_valid != bool(path):
            self.validInputChanged.emit(bool(path))

    def browse(self):
        """Asks for a path of the kind that the filters name: a folder only if they name no files."""
        if not self._filters & self.Files:
            path = QFileDialog.getExistingDirectory(self)
        elif self._filters & self.Writable:
            path = QFileDialog.getSaveFileName(self)
        else:
            path = QFileDialog.getOpenFileName(self)
        if path:
            self._set_path(path)

    currentPath = Property(str, _get_path, _set_path, notify=currentPathChanged)
    filters = Property(int, _get_filters, _set_filters)
    minimumContentsLength = Property(int, lambda self: self._minimum_length, _set_minimum_length)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box of one value."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._box = QtWidgets.QDoubleSpinBox()
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._value, self._tracking, self._page = 0.0, True, 10.0
        self._minimum, self._maximum, self._step = 0.0, 99.0, 1.0
        self._box.setRange(self._minimum, self._maximum)
        self._box.valueChanged.connect(self._set_value)
        self._slider.valueChanged.connect(lambda steps: self._set_value(self._minimum + steps * self._step))
        self._slider.setRange(0, 99)

    def _range(self):
        self._box.setRange(self._minimum, self._maximum)
        self._slider.setRange(0, round((self._maximum - self._minimum) / self._step))
        self._set_value(self._value)

    def _set_value(self, value):
        # As the real one, which counts steps: 0.7 reads back as 0.7000000000000001.
        steps = round((min(max(value, self._minimum), self._maximum) - self._minimum) / self._step)
        value = min(self._minimum + steps * self._step, self._maximum)
        if value == self._value:
            return
        self._value = value
        for widget, shown in ((self._box, value), (self._slider, steps)):
            blocker = QtCore.QSignalBlocker(widget)
            widget.setValue(shown)
            blocker.unblock()
        self.valueChanged.emit(value)

    def _set_minimum(self, value):
        self._minimum = value
        self._range()

    def _set_maximum(self, value):
        self._maximum = value
        self._range()

    def _set_step(self, value):
        self._step = value
        self._box.setSingleStep(value)
        self._range()

    def _set_decimals(self, n):
        self._box.setDecimals(n)

    def _set_tracking(self, on):
        self._tracking = on

    def _set_page(self, value):
        self._page = value

    value = Property(float, lambda self: self._value, _set_value, notify=valueChanged)
    minimum = Property(float, lambda self: self._minimum, _set_minimum)
    maximum = Property(float, lambda self: self._maximum, _set_maximum)
    singleStep = Property(float, lambda self: self._step, _set_step)
    pageStep = Property(float, lambda self: self._page, _set_page)
    decimals = Property(int, lambda self: self._box.decimals(), _set_decimals)
    tracking = Property(bool, lambda self: self._tracking, _set_tracking)

    def setValue(self, value):
        """Sets the value."""
        self._set_value(float(value))
