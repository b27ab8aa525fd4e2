"""Qt objects as PythonQt shows them to Python.

Properties are attributes and calling one fails; what is no property is a method; enums are plain ints; lists come as
tuples; an attribute that the class does not have can neither be read nor written.
"""

from __future__ import annotations

import enum
import re
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
_SIGNATURE = re.compile(r"(?P<name>\w+)\((?P<types>.*)\)")


class EnumValue(int):
    """An int that remembers the member that PySide6 wants back."""

    member: enum.Enum

    def __new__(cls, member: enum.Enum) -> EnumValue:
        value = super().__new__(cls, member.value)
        value.member = member
        return value

    def __or__(self, other: Any) -> Any:
        return EnumValue(self.member | other.member) if isinstance(other, EnumValue) else int(self) | other


def wrap(value: Any) -> Any:
    """A value from Qt as PythonQt hands it to Python."""
    if isinstance(value, QtCore.QObject):
        return Wrapper(value)
    if isinstance(value, enum.Enum):
        return EnumValue(value)
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)
    return value


def unwrap(value: Any) -> Any:
    """A value from Python as PySide6 takes it."""
    if isinstance(value, Wrapper):
        return object.__getattribute__(value, "_object")
    if isinstance(value, EnumValue):
        return value.member
    if isinstance(value, QtClass):
        return value.qt_class
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(item) for item in value)
    return value


class Wrapper:
    """A QObject as PythonQt wraps it."""

    __slots__ = ("__weakref__", "_object")

    def __init__(self, target: QtCore.QObject) -> None:
        object.__setattr__(self, "_object", target)

    def __getattr__(self, name: str) -> Any:
        target = unwrap(self)
        if name == "name":
            name = "objectName"
        if name == "className":
            return target.metaObject().className
        if _has_property(target, name):
            return wrap(target.property(name))
        try:
            found = getattr(target, name)
        except AttributeError:
            raise AttributeError(f"{type(target).__name__} has no attribute named {name!r}") from None
        if isinstance(found, QtCore.SignalInstance):
            return Signal(target, name)
        if isinstance(found, enum.Enum):
            return EnumValue(found)
        return _method(found) if callable(found) else wrap(found)

    def __setattr__(self, name: str, value: Any) -> None:
        target = unwrap(self)
        if name == "name":
            name = "objectName"
        if not _has_property(target, name):
            raise AttributeError(
                f"{type(target).__name__} has no attribute named {name!r}, and creating new attributes on C++ objects "
                "is not allowed"
            )
        value = unwrap(value)
        index = target.metaObject().indexOfProperty(name)
        if target.metaObject().property(index).typeName() == "QString" and not isinstance(value, str):
            value = "" if value is None else str(value)
        if not target.setProperty(name, value):
            raise ValueError(f"Property {name!r} of {type(target).__name__} cannot be set to {value!r}")

    def __dir__(self) -> list[str]:
        return dir(unwrap(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wrapper) and unwrap(self) is unwrap(other)

    def __hash__(self) -> int:
        return hash(unwrap(self))

    def connect(self, signature: str, function: Any) -> bool:
        """`connect("clicked(bool)", f)`: f gets the arguments of the overload that is named."""
        match = _SIGNATURE.fullmatch(signature)
        assert match, f"{signature!r} is no signature of a signal"
        target = unwrap(self)
        if not hasattr(target, match["name"]) or not _signature_exists(target, match["name"], match["types"]):
            # PythonQt returns False and prints; a test must not overlook it.
            raise AssertionError(f"{type(target).__name__} has no signal {signature}")
        types = match["types"]
        n_arguments = len(types.split(",")) if types else 0
        return Signal(target, match["name"]).connect_first(function, n_arguments)

    def disconnect(self, signature: str, function: Any) -> bool:
        match = _SIGNATURE.fullmatch(signature)
        assert match
        return Signal(unwrap(self), match["name"]).disconnect(function)


class Signal:
    """A signal as an attribute: the callback gets all arguments, but `QProcess.finished` its first alone."""

    _connections: dict[tuple[int, str, Any], Any] = {}  # noqa: RUF012 - of the process, as Qt's own

    def __init__(self, owner: QtCore.QObject, name: str) -> None:
        self._owner, self._name = owner, name

    def connect(self, function: Any) -> bool:
        """Connects a Python function."""
        return self.connect_first(function, 1 if self._name in ("finished", "clicked", "toggled") else None)

    def connect_first(self, function: Any, n_arguments: int | None) -> bool:
        """Connects a function that gets the first arguments only."""

        def relay(*arguments: Any) -> None:
            function(*(wrap(argument) for argument in arguments[:n_arguments]))

        def relay_one(argument: Any) -> None:
            function(wrap(argument))

        # PySide6 asks a slot how many parameters it takes, and gives one that takes any number none of the optional
        # one that QAbstractButton.clicked has.
        chosen = relay_one if n_arguments == 1 else relay
        getattr(self._owner, self._name).connect(chosen)
        Signal._connections[id(self._owner), self._name, function] = chosen
        return True

    def disconnect(self, function: Any = None) -> bool:
        """Takes a connection back."""
        relay = Signal._connections.pop((id(self._owner), self._name, function), None)
        if relay is None:
            return False
        getattr(self._owner, self._name).disconnect(relay)
        return True

    def emit(self, *arguments: Any) -> None:
        """Emits the signal."""
        getattr(self._owner, self._name).emit(*(unwrap(argument) for argument in arguments))

    __call__ = emit


class QtClass:
    """A Qt class: makes wrapped objects, and has its enums' values and static methods as attributes."""

    def __init__(self, qt_class: type) -> None:
        self.qt_class = qt_class

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return wrap(self.qt_class(*(unwrap(argument) for argument in arguments), **keywords))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.qt_class, name, None)
        if isinstance(found, enum.Enum):
            return EnumValue(found)
        if found is not None:
            return _method(found) if callable(found) and not isinstance(found, type) else found
        # An enum's value without the enum's name, as in C++.
        for candidate in vars(self.qt_class).values():
            if isinstance(candidate, enum.EnumMeta) and name in candidate.__members__:
                return EnumValue(candidate[name])
        raise AttributeError(f"{self.qt_class.__name__} has no attribute {name!r}")

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(unwrap(instance), self.qt_class)


def qt_class(name: str) -> Any:
    """The class of a name in any of Qt's modules."""
    if name.startswith("_"):
        raise AttributeError(name)
    for module in _MODULES:
        if hasattr(module, name):
            found = getattr(module, name)
            return QtClass(found) if isinstance(found, type) else found
    raise AttributeError(f"qt has no {name}")


def _has_property(target: QtCore.QObject, name: str) -> bool:
    return target.metaObject().indexOfProperty(name) >= 0


def _signature_exists(target: QtCore.QObject, name: str, types: str) -> bool:
    wanted = [t.strip() for t in types.split(",")] if types else []
    meta = target.metaObject()
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() != QtCore.QMetaMethod.MethodType.Signal or bytes(method.name()).decode() != name:
            continue
        has = [bytes(t).decode() for t in method.parameterTypes()]
        # Scene widgets of the stand-in pass Python objects where Slicer's pass nodes; enums may lack their class.
        if len(has) == len(wanted) and all(
            h in (w, "PyObject") or h.rpartition("::")[2] == w.rpartition("::")[2]
            for h, w in zip(has, wanted, strict=True)
        ):
            return True
    return False


def _method(function: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        plain = [unwrap(argument) for argument in arguments]
        plain = [
            (lambda *given, f=argument: f(*(wrap(value) for value in given)))
            if _is_python_function(argument)
            else argument
            for argument in plain
        ]
        try:
            return wrap(function(*plain, **keywords))
        except (TypeError, ValueError):
            # PythonQt converts numbers and texts as Qt's slots need them.
            for convert in (_floats_to_ints, _all_to_texts):
                try:
                    return wrap(function(*convert(plain), **keywords))
                except (TypeError, ValueError):
                    continue
            raise

    call.__name__ = getattr(function, "__name__", "method")
    return call


def _is_python_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, QtCore.QObject)) and hasattr(value, "__code__")


def _floats_to_ints(values: list[Any]) -> list[Any]:
    return [int(value) if isinstance(value, float) else value for value in values]


def _all_to_texts(values: list[Any]) -> list[Any]:
    return [str(value) if isinstance(value, (int, float)) else value for value in values]
