"""The threads of OpenMP, on which torch computes."""

from __future__ import annotations

import os

_BRIEFLY = {
    # GNU's, in torch for Linux: looks, of which one takes some 50 ns. Its default is a hundred times as many.
    "GOMP_SPINCOUNT": "3000",
    # Intel's and LLVM's, in torch for Windows and macOS: milliseconds, by default 200. The value is that of PyTorch's
    # "Performance Tuning Guide".
    "KMP_BLOCKTIME": "1",
}


def wait_briefly() -> None:
    """Has a thread that waits for the others sleep soon, unless the environment says how long it waits.

    By default it keeps its core busy by looking again and again, as if no other program were there. Where one is, such
    as a training beside a segmentation, the thread that all wait for gets no core for a while, at every layer of the
    network. On two cores beside a training a scan took 5 s, and takes 1 to 3 s so; on free cores a few hundredths more.

    To be called before torch is imported, which reads the environment once.
    """
    for variable, value in _BRIEFLY.items():
        os.environ.setdefault(variable, value)
