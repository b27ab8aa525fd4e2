"""What long work tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[float, str], None]
"""Told the part that is done, 0 to 1, and a sentence."""
