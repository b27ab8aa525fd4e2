"""Starts the worker process, asks it, cancels, and starts it again; knows nothing of MRML."""

import contextlib
import json
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

CANCEL_GRACE_MS = 700
"""A request that is still under way so long after it was cancelled is ended together with its process."""

_LOG_LINES_IN_ERROR = 3


class Job:
    """A request to the worker. One of the last three callbacks comes, once.

    Args:
        command: one of ``vnet_segmentation.worker.commands``.
        fields: of the request, fit for JSON.
        onProgress: gets a fraction from 0 to 1 and a sentence.
        onCase: gets the fields of an event "case", of a batch or of training cases.
        onTraining: gets the fields of a training's event "training".
        onResult: gets the fields of the result.
        onError: gets a sentence, and the ``ExitCode`` as int, or None for a bug.
        onCancelled: the request was stopped.
    """

    def __init__(
        self,
        command: str,
        fields: dict | None = None,
        onResult: Callable[[dict], None] = lambda result: None,
        onError: Callable[[str, int | None], None] = lambda sentence, code: None,
        onCancelled: Callable[[], None] = lambda: None,
        onProgress: Callable[[float, str], None] = lambda fraction, sentence: None,
        onCase: Callable[[dict], None] = lambda case: None,
        onTraining: Callable[[dict], None] = lambda progress: None,
    ):
        self.command = command
        self.fields = fields or {}
        self.onResult, self.onError, self.onCancelled = onResult, onError, onCancelled
        self.onProgress, self.onCase, self.onTraining = onProgress, onCase, onTraining
        self.id = None
        self.begun = self.sentAgain = self.cancelRequested = False


class WorkerClient:
    """The panel's end of a worker process, which is started when it is first needed and again after it ended.

    Every callback comes in the main thread, from Qt's event loop, from `wait` or from `stop`, and never before `submit`
    has returned: whoever submits can note what is under way afterwards.

    Args:
        moduleFolder: folder that holds the package ``vnet_segmentation``.
    """

    def __init__(self, moduleFolder: str):
        self.onLog: Callable[[str], None] = lambda line: None
        """Gets each line that the worker writes to its log."""
        # One object for all processes that are started, one after another: a QProcess must not be deleted by a callback
        # of its own signals.
        self._process = qt.QProcess()
        self._process.setWorkingDirectory(moduleFolder)
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readLog)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._running = self._stopping = False
        self._pid = None
        self._jobs = {}  # by id, in the order in which they were sent
        self._lastId = 0
        self._output = b""
        self._lastLog = deque(maxlen=_LOG_LINES_IN_ERROR)
        self._startProblem = None
        self._refused = []

    @property
    def pid(self) -> int | None:
        """Of the worker itself, not of the launcher that started it; None while no worker runs."""
        return self._pid

    @property
    def isRunning(self) -> bool:
        return self._running

    def submit(self, job: Job) -> Job:
        """Sends a request; requests are answered one after another."""
        if self._stopping:
            # From a callback of a job that ends with the worker: nobody is there to answer.
            self._refused.append(job)
            return job
        self._lastId += 1
        job.id = self._lastId
        self._jobs[job.id] = job
        if self._running:
            self._write(job)
        else:
            self._start()
        return job

    def cancel(self, job: Job, graceMs: int = CANCEL_GRACE_MS) -> None:
        """Asks for a stop; if that does not help in time, ends the process. By default ``onCancelled`` comes within a
        second."""
        if job.id not in self._jobs or job.cancelRequested:
            return
        job.cancelRequested = True
        self._send({"command": "cancel", "id": job.id})
        qt.QTimer.singleShot(graceMs, lambda: self._killIfPending(job))

    def wait(self, job: Job) -> None:
        """Blocks until the job has ended; its callbacks come meanwhile. For scripts, which have no event loop."""
        while job.id in self._jobs:
            self._tellStartProblem()
            # The signals, which call our slots, are emitted from inside.
            self._process.waitForReadyRead(100)
            self._readOutput()
            if self._process.state() == qt.QProcess.NotRunning:
                self._onFinished()

    def stop(self, timeoutMs: int = 1000) -> None:
        """Ends the worker; what was under way is cancelled."""
        if not self._running:
            return
        for job in self._jobs.values():
            job.cancelRequested = True
        self._stopping = True
        self._process.closeWriteChannel()
        if not self._process.waitForFinished(timeoutMs):
            self._kill()
            self._process.waitForFinished(timeoutMs)
        self._onFinished()
        self._stopping = False
        refused, self._refused = self._refused, []
        for job in refused:
            job.onCancelled()

    def _start(self) -> None:
        self._startProblem = None
        python = shutil.which("PythonSlicer")
        if python is None:
            self._failStart(_("PythonSlicer was not found. Install Slicer again."))
            return
        environment = qt.QProcessEnvironment()
        # The launcher PythonSlicer adds to it what Slicer's Python needs.
        for name, value in slicer.util.startupEnvironment().items():
            environment.insert(name, value)
        environment.insert("PYTHONUTF8", "1")
        self._process.setProcessEnvironment(environment)
        self._output = b""
        self._lastLog.clear()
        self._running = True
        self._process.start(python, ["-m", "vnet_segmentation.worker"])
        for job in list(self._jobs.values()):
            self._write(job)

    def _write(self, job: Job) -> None:
        self._send({"id": job.id, "command": job.command, **job.fields})

    def _send(self, message: dict) -> None:
        if self._running:
            # ASCII, so that no system's encoding can touch it.
            self._process.write(json.dumps(message).encode("ascii") + b"\n")

    def _readOutput(self) -> None:
        self._output += self._process.readAllStandardOutput().data()
        *lines, self._output = self._output.split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                self._log(line.decode("utf-8", "replace"))
                continue
            self._onEvent(event)

    def _readLog(self) -> None:
        for line in self._process.readAllStandardError().data().decode("utf-8", "replace").splitlines():
            self._log(line)

    def _log(self, line: str) -> None:
        if line.strip():
            self._lastLog.append(line.strip())
            self.onLog(line)

    def _onEvent(self, event: dict) -> None:
        name = event.pop("event")
        if name == "started":
            self._pid = event["pid"]
            self.onLog(
                _("Worker {version} started (Python {python}, process {pid}).").format(
                    version=event["version"], python=event["python"], pid=event["pid"]
                )
            )
        elif name == "failed":
            self._endAll(event["message"], event["code"])
        elif name in ("begun", "progress", "case", "training", "result", "error", "cancelled"):
            job = self._jobs.get(event.pop("id"))
            if job is not None:
                self._onJobEvent(job, name, event)

    def _onJobEvent(self, job: Job, name: str, event: dict) -> None:
        if name == "begun":
            job.begun = True
        elif name == "progress":
            job.onProgress(event["fraction"], event["message"])
        elif name == "case":
            job.onCase(event)
        elif name == "training":
            job.onTraining(event)
        else:
            del self._jobs[job.id]
            # A result that was overtaken by the wish to stop is not wanted any more.
            if name == "cancelled" or job.cancelRequested:
                job.onCancelled()
            elif name == "result":
                job.onResult(event)
            else:
                job.onError(event["message"], event["code"])

    def _onProcessError(self, error) -> None:
        # What else there is, a crash among it, comes with finished().
        if error == qt.QProcess.FailedToStart:
            self._running = False
            self._failStart(_("PythonSlicer could not be started. Install Slicer again."))

    def _failStart(self, sentence: str) -> None:
        # Later: Qt may tell of it from inside start(), and with it from inside `submit`.
        self._startProblem = sentence
        qt.QTimer.singleShot(0, self._tellStartProblem)

    def _tellStartProblem(self) -> None:
        if self._startProblem is not None:
            sentence, self._startProblem = self._startProblem, None
            self._endAll(sentence, None)

    def _onFinished(self, *_arguments) -> None:
        if not self._running:
            return
        self._readOutput()
        self._readLog()
        self._running, self._pid = False, None
        # What the callbacks ask for goes to the next worker and is none of these.
        jobs, self._jobs = self._jobs, {}
        pending = {jobId: job for jobId, job in jobs.items() if not job.cancelRequested}
        lastLines = "\n".join(self._lastLog)
        hasSlept = not any(job.begun or job.sentAgain for job in pending.values()) and self._process.exitCode() == 0
        if pending and hasSlept:
            # It ended for idleness just as it was asked.
            for job in pending.values():
                job.sentAgain = True
            self._jobs = pending
            self._start()
        for job in jobs.values():
            if job.cancelRequested:
                job.onCancelled()
            elif not hasSlept:
                job.onError(
                    _("The worker process ended unexpectedly. Try again. Its last words: {log}").format(
                        log=lastLines or _("none")
                    ),
                    None,
                )

    def _endAll(self, sentence: str, code: int | None) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            if job.cancelRequested:
                job.onCancelled()
            else:
                job.onError(sentence, code)

    def _killIfPending(self, job: Job) -> None:
        if job.id in self._jobs:
            self._kill()

    def _kill(self) -> None:
        # PythonSlicer is a launcher: killed alone, it leaves its child behind.
        if self._pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self._pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.kill()


_shared = {}


def sharedClient(moduleFolder: str, purpose: str = "segmentation") -> WorkerClient:
    """The one client of the application for a purpose, so that panel and scripts share a loaded model."""
    key = (moduleFolder, purpose)
    if key not in _shared:
        _shared[key] = WorkerClient(moduleFolder)
    return _shared[key]
