"""The client against workers of the test's own, which misbehave in every way a process can."""

from __future__ import annotations

import os
import textwrap

import pytest


@pytest.fixture
def client_of(desktop, tmp_path):
    """Function that makes a client of a worker with this code; `requests()` gives the lines it reads, `say` answers."""
    from VNetSegmentationLib.workerClient import WorkerClient

    clients = []

    def make(code: str) -> WorkerClient:
        package = tmp_path / "module" / "vnet_segmentation"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("")
        prelude = """
            import json, os, sys, time
            def say(event, **fields):
                print(json.dumps({"event": event, **fields}), flush=True)
            def requests():
                for line in sys.stdin:
                    yield json.loads(line)
            say("started", pid=os.getpid(), version="0", python="3")
        """
        (package / "worker.py").write_text(textwrap.dedent(prelude) + textwrap.dedent(code))
        clients.append(WorkerClient(str(package.parent)))
        return clients[-1]

    yield make
    for client in clients:
        client.stop()


class Outcome:
    """What became of a job."""

    def __init__(self):
        from VNetSegmentationLib.workerClient import Job

        self.events = []
        self.job = Job(
            "work",
            {"text": "Prüfung 前立腺"},
            onResult=lambda result: self.events.append(("result", result)),
            onError=lambda sentence, code: self.events.append(("error", sentence, code)),
            onCancelled=lambda: self.events.append(("cancelled",)),
            onProgress=lambda fraction, sentence: self.events.append(("progress", fraction, sentence)),
        )

    @property
    def ended(self) -> bool:
        return any(event[0] != "progress" for event in self.events)


ECHO = """
    for request in requests():
        say("begun", id=request["id"])
        say("progress", id=request["id"], fraction=0.5, message="Halfway")
        say("result", id=request["id"], text=request["text"])
"""


def test_answers_come_in_order_and_text_of_every_script_survives(client_of, desktop):
    client, outcomes = client_of(ECHO), [Outcome(), Outcome()]
    for outcome in outcomes:
        client.submit(outcome.job)
    desktop.wait_until(lambda: all(outcome.ended for outcome in outcomes))
    for outcome in outcomes:
        assert outcome.events == [("progress", 0.5, "Halfway"), ("result", {"text": "Prüfung 前立腺"})]


def test_waiting_needs_no_event_loop(client_of):
    client, outcome = client_of(ECHO), Outcome()
    client.wait(client.submit(outcome.job))
    assert outcome.ended


def test_lines_that_are_no_events_go_to_the_log(client_of, desktop):
    client, outcome, log = client_of("print('Welcome to some library')\n" + textwrap.dedent(ECHO)), Outcome(), []
    client.onLog = log.append
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert "Welcome to some library" in log
    assert outcome.events[-1][0] == "result"


def test_a_crash_is_told_with_the_last_words(client_of, desktop):
    client, outcome = client_of("""
        for request in requests():
            say("begun", id=request["id"])
            sys.exit("terrible things happened")
    """), Outcome()  # fmt: skip
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    ((kind, sentence, code),) = outcome.events
    assert (kind, code) == ("error", None)
    assert "terrible things happened" in sentence
    assert client.pid is None


def test_a_worker_that_cannot_start_says_why(client_of, desktop):
    client, outcome = client_of("""
        say("failed", code=3, message="The Python package torch is missing. Install it.")
        sys.exit(3)
    """), Outcome()  # fmt: skip
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert outcome.events == [("error", "The Python package torch is missing. Install it.", 3)]


def test_a_worker_that_ends_for_idleness_just_then_is_started_again(client_of, desktop, tmp_path):
    client, outcome = client_of("""
        if not os.path.exists("been here"):
            open("been here", "w").close()
            sys.stdin.readline()
            say("idle")
            sys.exit(0)
        for request in requests():
            say("begun", id=request["id"])
            say("result", id=request["id"])
    """), Outcome()  # fmt: skip
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert outcome.events == [("result", {})]


def test_a_worker_that_always_ends_at_once_is_not_started_for_ever(client_of, desktop):
    client, outcome = client_of("open('starts', 'a').write('x')"), Outcome()
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert outcome.events[0][0] == "error"
    assert client.isRunning is False


def test_a_deaf_worker_is_ended_with_its_launcher_when_it_is_cancelled(client_of, desktop):
    client, outcome = client_of("""
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("begun", id=1)
        while True:
            time.sleep(1)
    """), Outcome()  # fmt: skip
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.job.begun)
    pid = client.pid
    client.cancel(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert outcome.events == [("cancelled",)]
    desktop.wait_until(lambda: not _is_alive(pid))


def test_a_result_that_comes_after_the_cancellation_is_not_wanted(client_of, desktop):
    client, outcome = client_of("""
        for request in requests():
            if request["command"] == "cancel":
                say("result", id=request["id"])
            else:
                say("begun", id=request["id"])
    """), Outcome()  # fmt: skip
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.job.begun)
    pid = client.pid
    client.cancel(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert outcome.events == [("cancelled",)]
    # It obeyed, so it stays.
    desktop.run_for(1.0)
    assert client.pid == pid


def test_a_launcher_that_cannot_be_started_is_a_sentence(client_of, desktop, monkeypatch, tmp_path):
    launcher = tmp_path / "broken" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.write_bytes(b"\x7fELF broken")
    launcher.chmod(0o755)
    client, outcome = client_of(ECHO), Outcome()
    monkeypatch.setenv("PATH", str(launcher.parent))
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.ended)
    assert outcome.events[0][0] == "error"
    assert not client.isRunning


def test_stop_ends_the_worker_and_cancels_what_is_under_way(client_of, desktop):
    client, outcome = client_of("""
        for request in requests():
            say("begun", id=request["id"])
    """), Outcome()  # fmt: skip
    client.submit(outcome.job)
    desktop.wait_until(lambda: outcome.job.begun)
    pid = client.pid
    client.stop()
    assert outcome.events == [("cancelled",)]
    assert client.pid is None
    desktop.wait_until(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("launcher", ["absent", "broken"])
def test_whoever_submits_hears_of_a_failed_start_afterwards(client_of, desktop, monkeypatch, tmp_path, launcher):
    folder = tmp_path / launcher
    folder.mkdir()
    if launcher == "broken":
        (folder / "PythonSlicer").write_text("no program")
        (folder / "PythonSlicer").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    client, outcomes = client_of(""), [Outcome(), Outcome()]
    for outcome in outcomes:
        client.submit(outcome.job)
        assert not outcome.ended
    desktop.wait_until(lambda: all(outcome.ended for outcome in outcomes))
    assert [event[0] for outcome in outcomes for event in outcome.events] == ["error", "error"]
    # A script has no event loop.
    waiting = Outcome()
    client.wait(client.submit(waiting.job))
    assert "PythonSlicer" in waiting.events[0][1]
