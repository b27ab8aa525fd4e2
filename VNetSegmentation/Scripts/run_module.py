"""`PythonSlicer run_module.py MODULE ARGUMENTS`: `python -m MODULE ARGUMENTS` that ends when its standard input closes.

PythonSlicer is a launcher: killed, it leaves the process behind that does the work. That process therefore watches the
pipe that leads to it: whoever started it stops it by closing the pipe, or by ending in whatever way.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

GRACE_S = 3.0
"""For what is under way to leave no half file behind; then the process ends, come what may."""

_POLL_S = 0.3


def main() -> None:
    threading.Thread(target=_end_with_input, daemon=True).start()
    # In place of this script's folder, which is no place for modules: that of the engine.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    while _input_is_open():
        pass
    _interrupt()
    time.sleep(GRACE_S)
    os._exit(130)


if os.name == "nt":
    import _thread
    import _winapi
    import msvcrt

    _interrupt = _thread.interrupt_main

    def _input_is_open() -> bool:
        # Not a read that waits: while one is pending, numpy's import hangs, as its BLAS looks at the standard input.
        time.sleep(_POLL_S)
        try:
            _winapi.PeekNamedPipe(msvcrt.get_osfhandle(0), 0)
        except OSError:
            return False
        return True

else:
    import select

    def _interrupt() -> None:
        # To the main thread itself, which may be waiting for the network or a disk.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def _input_is_open() -> bool:
        readable, _, _ = select.select([0], [], [], _POLL_S)
        return not readable or bool(os.read(0, 4096))


if __name__ == "__main__":
    main()
