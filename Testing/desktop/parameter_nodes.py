"""`slicer.parameterNodeWrapper`: a class of typed parameters that live in a node, and are bound to widgets.

Values are texts in the node, nodes are its references.
"""

from __future__ import annotations

import itertools
import types
import typing
from typing import Any

import slicer
import vtk

from desktop.pythonqt import Wrapper, unwrap

_PROPERTY = "SlicerParameterName"
_followers: list[Any] = []


class WithinRange:
    """A number from `minimum` to `maximum`."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Default:
    """A default value in an annotation."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Parameter:
    """One typed field."""

    def __init__(self, name: str, annotation: Any, owner: type) -> None:
        self.name = name
        self.type, *extras = (
            typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else (annotation,)
        )
        self.validators = [extra for extra in extras if hasattr(extra, "validate")]
        self.is_node = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        defaults = [extra.value for extra in extras if isinstance(extra, Default)]
        self.default = defaults[0] if defaults else vars(owner).get(name, None if self.is_node else self.type())

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if not text:
            return self.default
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node: Any, value: Any) -> None:
        for validator in self.validators:
            validator.validate(value)
        if self.is_node:
            if value is not None and not isinstance(value, self.type):
                raise TypeError(f"Expected a {self.type.__name__}, got {value!r}")
            new_id = value.GetID() if value is not None else None
            if node.GetNodeReferenceID(self.name) != new_id:
                node.SetNodeReferenceID(self.name, new_id)
                node.Modified()
            return
        if not isinstance(value, (int, float) if self.type is float else self.type):
            raise TypeError(f"Expected a {self.type.__name__}, got {value!r}")
        node.SetParameter(self.name, str(self.type(value)))


def parameterNodeWrapper(cls: type) -> type:
    """Makes a class of annotated fields one whose instances wrap a parameter node."""
    parameters = [
        _Parameter(name, annotation, cls)
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
    ]

    def initialise(self, parameter_node):
        self.__dict__["parameterNode"] = parameter_node
        self.__dict__["_connections"] = {}
        self.__dict__["_tags"] = itertools.count()
        for parameter in parameters:
            # Defaults are written at once, so that the node says what holds.
            if not parameter.is_node and not parameter_node.GetParameter(parameter.name):
                parameter.write(parameter_node, parameter.default)
        # Values are kept until the node tells of a change: a node that was removed is still one until then.
        values = self.__dict__["_values"] = {}

        def keep(caller=None, event=None):
            values.update({parameter.name: parameter.read(parameter_node) for parameter in parameters})

        keep()
        parameter_node.AddObserver(vtk.vtkCommand.ModifiedEvent, keep)
        _followers.append(keep)

    def write(self, parameter, value) -> None:
        was_modifying = self.parameterNode.StartModify()
        try:
            parameter.write(self.parameterNode, value)
            self._values[parameter.name] = parameter.read(self.parameterNode)
        finally:
            self.parameterNode.EndModify(was_modifying)

    by_name = {parameter.name: parameter for parameter in parameters}

    def connect_parameters_to_gui(self, mapping) -> int:
        for name in mapping:
            if name not in by_name:
                raise ValueError(f"No parameter is named {name!r}")
        tag = next(self._tags)
        connection = _Connection(self, [(by_name[name], mapping[name]) for name in mapping])
        self._connections[tag] = connection

        # Never taken back: the node calls each wrapper that it ever had.
        def follow(caller, event):
            connection.to_widgets()

        self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, follow)
        # Python would collect what a node alone holds, though the scene holds the node.
        _followers.append(follow)
        return tag

    def connect_gui(self, gui) -> None:
        # No tag comes back, up to Slicer 5.10 at least.
        widgets = [widget for widget in vars(gui).values() if isinstance(widget, Wrapper)]
        bound = {widget.property(_PROPERTY): widget for widget in widgets if widget.property(_PROPERTY)}
        connect_parameters_to_gui(self, bound)

    def disconnect_gui(self, tag: int | None) -> None:
        if tag in self._connections:
            self._connections.pop(tag).close()

    def refuse(self, name, value):
        raise AttributeError(f"{cls.__name__} has no parameter {name!r}")

    members: dict[str, Any] = {
        "__init__": initialise,
        "allParameters": by_name,
        "__setattr__": refuse,
        "connectGui": connect_gui,
        "connectParametersToGui": connect_parameters_to_gui,
        "disconnectGui": disconnect_gui,
        "AddObserver": lambda self, *arguments: self.parameterNode.AddObserver(*arguments),
        "RemoveObserver": lambda self, *arguments: self.parameterNode.RemoveObserver(*arguments),
        "Modified": lambda self: self.parameterNode.Modified(),
        "default": lambda self, name: next(p.default for p in parameters if p.name == name),
        "__doc__": cls.__doc__,
    }
    for parameter in parameters:
        members[parameter.name] = property(
            lambda self, p=parameter: self._values[p.name],
            lambda self, value, p=parameter: write(self, p, value),
        )
    wrapper = types.new_class(cls.__name__, (), {}, lambda namespace: namespace.update(members))
    # Properties are found before __setattr__ refuses.
    wrapper.__setattr__ = lambda self, name, value: (
        vars(wrapper)[name].__set__(self, value)
        if isinstance(vars(wrapper).get(name), property)
        else refuse(self, name, value)
    )
    return wrapper


class _Connection:
    """Parameters and widgets that follow each other."""

    def __init__(self, parameters: Any, pairs: list[tuple[_Parameter, Wrapper]]) -> None:
        self._parameters = parameters
        self._updating = False
        self._pairs = []
        for parameter, widget in pairs:
            connector = _connector(widget, parameter)
            self._pairs.append((parameter, connector))
            connector.prepare()
            connector.on_change(lambda p=parameter, c=connector: self._from_widget(p, c))
        self.to_widgets()

    def _from_widget(self, parameter: _Parameter, connector: Any) -> None:
        if not self._updating:
            setattr(self._parameters, parameter.name, connector.read())

    def to_widgets(self) -> None:
        """Shows what the node has."""
        if self._updating:
            return
        self._updating = True
        try:
            for parameter, connector in self._pairs:
                value = getattr(self._parameters, parameter.name)
                if connector.read() != value:
                    connector.write(value)
        finally:
            self._updating = False

    def close(self) -> None:
        """Ends it."""
        for _, connector in self._pairs:
            connector.close()
        self._pairs = []


def _connector(widget: Wrapper, parameter: _Parameter) -> Any:
    for kind, (get, put, signal) in _KINDS.items():
        if kind in [c.__name__ for c in type(unwrap(widget)).__mro__]:
            return _Connector(widget, parameter, get, put, signal)
    raise ValueError(f"Cannot connect a {type(unwrap(widget)).__name__} to {parameter.name}")


_KINDS: dict[str, Any] = {
    "qMRMLNodeComboBox": (lambda w: w.currentNode(), lambda w, v: w.setCurrentNode(v), "currentNodeChanged"),
    "ctkSliderWidget": (lambda w: w.value, lambda w, v: setattr(w, "value", v), "valueChanged"),
    "QAbstractButton": (lambda w: w.checked, lambda w, v: setattr(w, "checked", v), "toggled"),
    "QDoubleSpinBox": (lambda w: w.value, lambda w, v: setattr(w, "value", v), "valueChanged"),
    "QSpinBox": (lambda w: w.value, lambda w, v: setattr(w, "value", v), "valueChanged"),
    "QLineEdit": (lambda w: w.text, lambda w, v: setattr(w, "text", v), "textChanged"),
    "QComboBox": (lambda w: w.currentText, lambda w, v: setattr(w, "currentText", v), "currentTextChanged"),
}


class _Connector:
    """One widget."""

    def __init__(self, widget, parameter, get, put, signal) -> None:
        self._widget, self._parameter, self._get, self._put = widget, parameter, get, put
        self._signal = getattr(unwrap(widget), signal)
        self._slot = None

    def prepare(self) -> None:
        for validator in self._parameter.validators:
            if isinstance(validator, WithinRange) and hasattr(self._widget, "maximum"):
                self._widget.minimum, self._widget.maximum = float(validator.minimum), float(validator.maximum)

    def on_change(self, function) -> None:
        self._slot = lambda *_: function()
        self._signal.connect(self._slot)

    def read(self):
        return self._get(self._widget)

    def write(self, value) -> None:
        self._put(self._widget, value)

    def close(self) -> None:
        self._signal.disconnect(self._slot)
