"""A stand-in for Slicer's desktop: the real scene, nodes and logics of slicer-core, real Qt widgets of PySide6 on an
offscreen platform, and between them what PythonQt and Slicer's widgets add, as they behave in a running Slicer.

`install()` puts `qt`, `ctk` and the missing parts of `slicer` in place; `fixtures.desktop` gives it to tests.
"""

from desktop.application import install

__all__ = ["install"]
