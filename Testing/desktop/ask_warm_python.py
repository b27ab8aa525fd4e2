"""`python -I -S ask_warm_python.py SOCKET ARGUMENTS`: `python ARGUMENTS`, as a process of `warm_python`."""

import json
import os
import socket
import sys

_, path, *arguments = sys.argv
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    message = json.dumps(request).encode()
    sent = socket.send_fds(connection, [message], [0, 1, 2])
    connection.sendall(message[sent:])
    connection.shutdown(socket.SHUT_WR)
    exit_code = int(connection.makefile("rb").read())
# A process that was killed has a negative one.
sys.exit(exit_code if exit_code >= 0 else 128 - exit_code)
