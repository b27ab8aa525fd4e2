"""`python -E warm_python.py SOCKET`: waits with the engine's packages imported, and becomes what it is asked for.

Tests start hundreds of workers, each of which would import torch, for longer than it then works. Here each is a fork: a
process of its own, with the arguments, the folder, the environment and the standard streams of the launcher that asks
(`ask_warm_python`), in which the engine itself is not imported yet. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys

# What the worker imports before it can do anything.
import safetensors.torch  # noqa: F401
import SimpleITK  # noqa: F401
import torch  # noqa: F401
import tqdm  # noqa: F401


def next_process(path: str) -> socket.socket:
    """Returns once for each that asks, in a process of its own, with the connection to it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            if sys.stdin in select.select([sys.stdin, listening], [], [])[0]:
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return connection
            connection.close()


def become(connection: socket.socket) -> list[str]:
    """Returns in the process that was asked for, with its arguments; its parent passes its exit code on."""
    message, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    with connection, connection.makefile("rb") as rest:
        request = json.loads(message + rest.read())
        child = os.fork()
        if child:
            for stream in streams:
                os.close(stream)
            _, status = os.waitpid(child, 0)
            # The launcher may have been killed.
            with contextlib.suppress(OSError):
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["arguments"]


option, *sys.argv = become(next_process(sys.argv[1]))
assert option == "-m"
# As `python -m` has it.
sys.path[0] = os.getcwd()
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
