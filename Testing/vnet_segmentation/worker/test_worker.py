"""The protocol, with commands of the test's own; and the process, with the real ones."""

from __future__ import annotations

import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.images.phantom import PhantomGrid, make_phantom
from vnet_segmentation.images.volume_exchange import read_exchange, write_exchange
from vnet_segmentation.worker.worker import Worker

PACKAGE_FOLDER = Path(__file__).resolve().parents[3] / "VNetSegmentation"
TIMEOUT_S = 60


def _request(identity, command, **fields) -> str:
    return json.dumps({"id": identity, "command": command, **fields}) + "\n"


def _wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _Feed:
    """Lines that come while the worker works, as from a pipe."""

    def __init__(self):
        self._lines = queue.Queue()

    def put(self, line):
        self._lines.put(line)

    def __iter__(self):
        return iter(self._lines.get, None)


def _served(commands, idle_s=TIMEOUT_S):
    """A worker that serves in a thread; returns its feed, its output and the thread."""
    feed, output = _Feed(), io.StringIO()
    worker = Worker(output)
    threading.Thread(target=worker.read, args=(feed,), daemon=True).start()
    thread = threading.Thread(target=worker.serve, args=(commands, idle_s), daemon=True)
    thread.start()
    return feed, output, thread


def test_a_result_follows_begun_and_progress_of_the_same_id():
    def double(request, send):
        send("progress", fraction=0.5, message="Halfway")
        return {"value": 2 * request["value"]}

    feed, output, thread = _served({"double": double})
    feed.put(_request(7, "double", value=21))
    feed.put(_request("last", "missing"))
    _wait_until(lambda: "last" in output.getvalue())
    feed.put(None)
    thread.join(TIMEOUT_S)
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert events[:3] == [
        {"event": "begun", "id": 7},
        {"event": "progress", "id": 7, "fraction": 0.5, "message": "Halfway"},
        {"event": "result", "id": 7, "value": 42},
    ]


def test_a_user_error_has_its_code_and_a_bug_has_none_and_both_leave_the_worker_alive(capsys):
    def fail(request, send):
        raise UserError("The scan is broken. Load another one.", ExitCode.BAD_INPUT)

    def crash(request, send):
        raise ZeroDivisionError("division by zero")

    feed, output, thread = _served({"fail": fail, "crash": crash, "fine": lambda request, send: {}})
    for number, command in enumerate(("fail", "crash", "fine", "unknown")):
        feed.put(_request(number, command))
    _wait_until(lambda: output.getvalue().count("\n") >= 7)
    feed.put(None)
    thread.join(TIMEOUT_S)
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    ends = {event["id"]: event for event in events if event["event"] in ("result", "error")}
    assert ends[0] == {"event": "error", "id": 0, "code": 4, "message": "The scan is broken. Load another one."}
    assert ends[1]["code"] is None
    assert "ZeroDivisionError" in ends[1]["message"]
    assert "Traceback" in capsys.readouterr().err
    assert ends[2]["event"] == "result"
    assert ends[3]["code"] == ExitCode.USAGE


@pytest.mark.parametrize(
    "line",
    [
        "no json\n",
        "[1]\n",
        '{"id": 3}\n',
        "17\n",
        '{"id": {}, "command": "cancel"}\n',
        '{"id": null, "command": "fine"}\n',
        "[" * 100_000 + "\n",
    ],
    ids=lambda line: line[:40],
)
def test_what_is_no_request_is_answered_and_passed_over(line):
    feed, output, thread = _served({"fine": lambda request, send: {}})
    for one in (line, "\n", _request(1, "fine")):
        feed.put(one)
    _wait_until(lambda: "result" in output.getvalue() or not thread.is_alive())
    feed.put(None)
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["error", "begun", "result"]
    assert "Not a request" in events[0]["message"]


def test_input_that_cannot_be_read_on_ends_the_worker_as_its_end_does():
    def broken():
        yield "\n"
        raise OSError("The pipe is broken.")

    worker = Worker(io.StringIO())
    with pytest.raises(OSError, match="pipe"):
        worker.read(broken())
    assert worker.is_cancelled(1)
    worker.serve({}, idle_s=60)


def test_a_cancellation_overtakes_what_is_under_way_and_what_waits():
    started = threading.Event()

    def endless(request, send):
        while True:
            send("progress", fraction=0.0, message="Still here")
            started.set()

    feed, output, thread = _served({"endless": endless})
    feed.put(_request(1, "endless"))
    feed.put(_request(2, "endless"))
    assert started.wait(TIMEOUT_S)
    feed.put(_request(2, "cancel"))
    feed.put(_request(1, "cancel"))
    _wait_until(lambda: output.getvalue().count("cancelled") >= 2)
    feed.put(None)
    thread.join(TIMEOUT_S)
    events = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [event["id"] for event in events if event["event"] == "cancelled"] == [1, 2]
    assert {"event": "begun", "id": 2} not in events


def test_the_end_of_the_input_stops_what_is_under_way():
    started, seen = threading.Event(), []

    def endless(request, send):
        try:
            while True:
                send("progress", fraction=0.0, message="Still here")
                started.set()
        except Cancelled:
            seen.append("cancelled")
            raise

    feed, _, thread = _served({"endless": endless})
    feed.put(_request(1, "endless"))
    assert started.wait(TIMEOUT_S)
    feed.put(None)
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert seen == ["cancelled"]


def test_an_idle_worker_says_so_and_ends():
    _, output, thread = _served({}, idle_s=0.05)
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert json.loads(output.getvalue()) == {"event": "idle"}


class _Process:
    """The real worker."""

    def __init__(self, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vnet_segmentation.worker", *arguments],
            cwd=PACKAGE_FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def send(self, line: str) -> None:
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def until(self, name: str) -> list[dict]:
        """The events up to the first one of this name."""
        events = []
        while not events or events[-1]["event"] != name:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read().decode()
            events.append(json.loads(line))
        return events


@pytest.fixture
def real_worker():
    started = []

    def start(*arguments: str) -> _Process:
        started.append(_Process(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()
        for stream in (process.process.stdin, process.process.stdout, process.process.stderr):
            stream.close()


def test_the_process_segments_and_ends_with_its_input(real_worker, tmp_path):
    scan, truth = make_phantom(1, PhantomGrid(size=(192, 192, 24), spacing_mm=(0.9, 0.9, 3.3)))
    worker = real_worker()
    assert worker.until("started")[0]["pid"] == worker.process.pid
    worker.send(_request(1, "describe"))
    description = worker.until("result")[-1]
    assert description["default_model"] in [model["name"] for model in description["models"]]
    worker.send(_request(2, "load", model=None, device="cpu"))
    assert worker.until("result")[-1] == {"event": "result", "id": 2}
    request = {
        "scan": write_exchange(scan, tmp_path / "scan.npy"),
        "name": "phantom",
        "probability": str(tmp_path / "probability.npy"),
        "model": None,
        "device": "cpu",
        "threshold": 0.5,
    }
    worker.send(_request(3, "segment", **request))
    events = worker.until("result")
    # The model is there already.
    assert "Loading the model" not in [event.get("message") for event in events]
    result = events[-1]
    probability = read_exchange(result["probability"])
    assert (probability.GetSize(), probability.GetOrigin()) == (scan.GetSize(), scan.GetOrigin())
    mask, reference = sitk.GetArrayFromImage(probability) >= 0.5, sitk.GetArrayFromImage(truth) != 0
    assert 2 * np.count_nonzero(mask & reference) / (mask.sum() + reference.sum()) > 0.7
    assert result["report"]["volume_ml"] > 10
    worker.process.stdin.close()
    assert worker.process.wait(TIMEOUT_S) == 0


def test_a_scan_that_cannot_be_used_is_a_sentence(real_worker, tmp_path):
    worker = real_worker()
    flat = sitk.Image(40, 40, 10, sitk.sitkInt16)
    request = {
        "scan": write_exchange(flat, tmp_path / "scan.npy"),
        "name": "flat",
        "probability": str(tmp_path / "probability.npy"),
        "model": None,
        "device": "cpu",
        "threshold": 0.5,
    }
    worker.send(_request(1, "segment", **request))
    error = worker.until("error")[-1]
    assert error["code"] == ExitCode.BAD_INPUT
    assert "flat" in error["message"]
    assert not (tmp_path / "probability.npy").exists()


def test_a_name_that_is_not_unicode_does_not_stop_the_events(real_worker):
    worker = real_worker()
    worker.send(_request(1, "batch", inputs=["sch\udcf6n"], output="masks", options={}))
    assert "sch?n" in worker.until("error")[-1]["message"]
    worker.send(_request(2, "describe"))
    assert worker.until("result")[-1]["id"] == 2


def test_the_process_ends_with_its_parent_even_in_the_middle_of_torchs_import(real_worker):
    worker = real_worker()
    worker.until("started")
    worker.process.stdin.close()
    assert worker.process.wait(TIMEOUT_S) == 0


def test_the_process_ends_when_it_is_idle(real_worker):
    worker = real_worker("--idle-minutes", "0.001")
    worker.until("idle")
    assert worker.process.wait(TIMEOUT_S) == 0


def test_a_missing_package_is_named_and_prints_of_libraries_do_not_get_between_the_events(tmp_path):
    # A torch that cannot be imported stands in for one that is not there.
    (tmp_path / "torch.py").write_text(
        "print('hello from a library')\nraise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(1, sys.argv[1]); "
         "from vnet_segmentation.worker.worker import main; sys.exit(main([]))", str(PACKAGE_FOLDER)],
        env=environment, input=b"", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    events = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    assert events[-1]["event"] == "failed"
    assert "torch" in events[-1]["message"]
    assert ended.returncode == ExitCode.MISSING_DEPENDENCY
    assert b"hello from a library" in ended.stderr
