"""Installs the worker's packages into Slicer's Python, in a process of its own."""

import contextlib
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from VNetSegmentationLib.dependencies import (
    RUN_MODULE,
    Requirement,
    names,
    offlineAdvice,
    torchViaExtension,
    unsatisfied,
)

CANCEL_GRACE_MS = 1000
"""pip that has not ended so long after it was asked to loses its launcher, too."""


_TOO_DEEP_FOR_WINDOWS = "!=2.13.0"
"""Only in torch 2.13.0 there are paths of up to 171 characters: under Slicer's own they are longer than Windows takes,
and half a torch is left behind."""

_LINES_IN_ERROR = 3
_MEGABYTE = 1e6
_SMALL_DOWNLOAD = 10 * _MEGABYTE


_NO_NETWORK = re.compile(
    r"Failed to establish a new connection|NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError"
    r"|SSLError|ReadTimeoutError|Connection aborted|Network is unreachable|getaddrinfo failed|timed out",
)
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


class DependencyInstaller:
    """Installs packages into Slicer's Python while Slicer stays usable.

    It runs the commands that ``slicer.packaging.pip_install`` and PyTorch's extension run, in a process of its own, and
    leaves out torchvision, which nothing here uses. Those two are not called themselves: the one cannot be cancelled
    and, in Slicer's testing mode, blocks and calls nobody back; the other blocks Slicer during the whole download and
    then imports torch into it.

    It does not begin while ``slicer.packaging`` installs something. The other way round there is no such care: what
    ``slicer.packaging`` has to say that an installation is under way is private to it, so another extension can start
    one beside this.
    """

    def __init__(self):
        self._process = None
        self._running = False

    def install(
        self, missing: list[str], onLog: Callable[[str], None], onFinished: Callable[[str | None], None]
    ) -> None:
        """Starts the installation.

        Args:
            missing: lines of a requirements file.
            onLog: gets each line to show.
            onFinished: called once: with None if everything is there, or else with what to tell the user.
        """
        self._missing, self._onLog, self._onFinished = missing, onLog, onFinished
        self._lines, self._rest, self._shownTenths = [], b"", 0
        self._commands = _commands(missing)
        self._running, self._cancelled = True, False
        if _anotherInstallationRuns():
            self._end(_("Another installation of Python packages is under way. Try again when it is done."))
        elif shutil.which("PythonSlicer") is None:
            self._end(_("PythonSlicer was not found. Install Slicer again."))
        else:
            self._startNext()

    def cancel(self) -> None:
        """Stops the installation; ``onFinished`` comes within about a second."""
        if not self._running or self._cancelled:
            return
        self._cancelled = True
        self._process.closeWriteChannel()
        qt.QTimer.singleShot(CANCEL_GRACE_MS, self._killIfCancelled)

    def _startNext(self) -> None:
        module, *arguments = self._commands.pop(0)
        self._onLog(f"{module} {' '.join(arguments)}")
        if self._process is None:
            # One for all commands: a QProcess must not be deleted by a callback of its own signals.
            self._process = qt.QProcess()
            self._process.setProcessChannelMode(qt.QProcess.MergedChannels)
            self._process.connect("readyReadStandardOutput()", self._read)
            self._process.connect("finished(int,QProcess::ExitStatus)", self._onProcessFinished)
            self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process.setProcessEnvironment(_environment())
        self._process.start(shutil.which("PythonSlicer"), [str(RUN_MODULE), module, *arguments])

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._process.readAllStandardOutput().data()).split(b"\n")
        for line in lines:
            self._show(line.decode("utf-8", "replace").rstrip())

    def _show(self, line: str) -> None:
        progress = _PROGRESS.fullmatch(line.strip())
        if progress:
            self._showProgress(*map(int, progress.groups()))
        elif line.strip():
            self._lines.append(line.strip())
            self._onLog(line)

    def _showProgress(self, nBytes: int, total: int) -> None:
        # Four of these lines come in a second; a tenth of a download is worth one.
        tenths = 10 * nBytes // total if total else 0
        if total > _SMALL_DOWNLOAD and tenths not in (0, self._shownTenths):
            self._onLog(_("  {done:.0f} of {total:.0f} MB").format(done=nBytes / _MEGABYTE, total=total / _MEGABYTE))
        self._shownTenths = tenths

    def _onProcessError(self, error) -> None:
        # What else there is, a crash among it, comes with finished().
        if error == qt.QProcess.FailedToStart:
            self._end(_("PythonSlicer could not be started. Install Slicer again."))

    def _onProcessFinished(self, exitCode, exitStatus) -> None:
        self._read()
        self._show(self._rest.decode("utf-8", "replace"))
        self._rest = b""
        if self._cancelled:
            self._end(_("The installation was stopped."))
        elif exitCode == 0 and self._commands:
            self._startNext()
        elif not unsatisfied(self._missing):
            self._end(None)
        elif exitCode == 0:
            self._end(
                _("pip reports success, but {packages} cannot be found. Restart Slicer and try again.").format(
                    packages=names(unsatisfied(self._missing))
                )
            )
        elif any(_NO_NETWORK.search(line) for line in self._lines):
            self._end(offlineAdvice(unsatisfied(self._missing)))
        else:
            self._end(_("The installation failed. pip says:\n{lines}").format(lines="\n".join(self._lastWords())))

    def _lastWords(self) -> list[str]:
        """pip's own lines about what went wrong."""
        lines = [line for line in self._lines if not line.startswith(("[notice]", "WARNING: Retrying"))]
        return ([line for line in lines if line.startswith(("ERROR", "HINT"))] or lines)[-_LINES_IN_ERROR:]

    def _killIfCancelled(self) -> None:
        if self._running and self._cancelled:
            # With its launcher the process loses its input, if it has not done so by now, and follows.
            self._process.kill()

    def _end(self, problem: str | None) -> None:
        self._running = False
        self._onFinished(problem)


def _commands(missing: list[str]) -> list[list[str]]:
    """The modules to run, one after another, with their arguments."""
    missing = [_installable(line) for line in missing]
    torch = torchViaExtension(missing)
    rest = [line for line in missing if line != torch]
    commands = [["pip", "install", *rest]] if rest else []
    if torch:
        # As PyTorch's extension does: this one finds the build of torch that fits the graphics card.
        commands += [["pip", "install", "light-the-torch>=0.5"], ["light_the_torch", "install", torch]]
    return commands


def _installable(line: str) -> str:
    """A line of a requirements file, without a version that cannot be installed on this system."""
    requirement = Requirement(line)
    if sys.platform != "win32" or requirement.name != "torch":
        return line
    requirement.specifier &= _TOO_DEEP_FOR_WINDOWS
    return str(requirement)


def _anotherInstallationRuns() -> bool:
    try:
        from slicer.packaging import isPipInstallInProgress
    except ImportError:
        return False
    return isPipInstallInProgress()


def _environment():
    """Slicer's own, as for ``slicer.util.pip_install``: a proxy may be set in it."""
    environment = qt.QProcessEnvironment.systemEnvironment()
    settings = {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Since this version pip can write its progress into a pipe, too.
        if Requirement("pip>=24.1").specifier.contains(importlib.metadata.version("pip")):
            settings["PIP_PROGRESS_BAR"] = "raw"
    for name, value in settings.items():
        environment.insert(name, value)
    return environment
