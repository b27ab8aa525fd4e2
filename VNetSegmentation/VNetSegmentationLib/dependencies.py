"""The Python packages that the worker needs and Slicer does not bring: which are missing, what to say, installing them.

PyTorch itself is never imported here: in Slicer's process it costs seconds, memory and, installed wrongly, Slicer.
"""

import contextlib
import importlib
import importlib.metadata
import inspect
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from slicer.i18n import tr as _

try:
    from packaging.requirements import Requirement
except ImportError:
    # Slicer without slicer.packaging need not have it, but has pip.
    from pip._vendor.packaging.requirements import Requirement

RUN_MODULE = Path(__file__).resolve().parents[1] / "Scripts" / "run_module.py"
"""Script for PythonSlicer that runs a module in a process that ends when its standard input closes."""

CANCEL_GRACE_MS = 1000
"""pip that has not ended so long after it was asked to loses its launcher, too."""

_OFFLINE_FOLDER = "vnet-packages"
_LINES_IN_ERROR = 3
_MEGABYTE = 1e6
_SMALL_DOWNLOAD = 10 * _MEGABYTE

_NO_NETWORK = re.compile(
    r"Failed to establish a new connection|NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError"
    r"|SSLError|ReadTimeoutError|Connection aborted|Network is unreachable|getaddrinfo failed|timed out",
)
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def missingPackages(requirementsPath: str | Path) -> list[str]:
    """The lines of a requirements file that this Python does not satisfy, seen from the packages' metadata.

    What was installed a moment ago by another process counts.
    """
    lines = (line.partition("#")[0].strip() for line in Path(requirementsPath).read_text("utf-8").splitlines())
    return _unsatisfied([line for line in lines if line])


def installationQuestion(missing: list[str]) -> str:
    """What to ask the user before `missing`, lines of `missingPackages`, is installed: what it is, and how large."""
    size, remark = _download(missing)
    sentences = (
        _("Segmenting needs Python packages that are not installed in Slicer: {packages}.").format(
            packages=_names(missing)
        ),
        _("The download is {size}; on the disk it takes two to three times as much.").format(size=size),
        remark,
        _("Install them now? You can go on working in the meantime."),
    )
    return " ".join(filter(None, sentences))


def installationAdvice(missing: list[str]) -> str:
    """What to do where nobody can be asked, as in a headless run."""
    return _(
        "Segmenting needs Python packages that are not installed in Slicer: {packages}. Start Slicer, open the module "
        "V-Net Prostate Segmentation and press Segment prostate, which installs them. Or run: "
        "PythonSlicer -m pip install {lines}"
    ).format(packages=_names(missing), lines=" ".join(f'"{line}"' for line in missing))


def offlineAdvice(missing: list[str]) -> str:
    """How to bring packages to a computer without internet: what to run elsewhere, to carry and to paste."""
    # pip evaluates conditions such as "only on Windows" for the computer that it runs on, whatever it is told.
    download = " ".join(
        (
            "python -m pip download --only-binary=:all:",
            *(f"--platform {tag}" for tag in _platformTags()),
            f"--python-version {sys.version_info.major}.{sys.version_info.minor}",
            f"-d {_OFFLINE_FOLDER}",
            *(f'"{line}"' for line in missing),
        )
    )
    # A list, because every Slicer takes it as it is: a string is split at blanks and loses backslashes.
    arguments = ["--no-index", "--find-links", str(Path.home() / _OFFLINE_FOLDER), *missing]
    return _(
        "The packages could not be downloaded: there is no connection to the internet, or a firewall is in the way.\n"
        "1. On a computer with internet, {system} and Python, run ({size}):\n    {download}\n"
        "2. Copy the folder {folder} to {home} on this computer.\n"
        "3. Paste this into Slicer's Python console:\n    slicer.util.pip_install({arguments!r})"
    ).format(
        system=_system(),
        size=_download(missing, viaExtension=False)[0],
        download=download,
        folder=_OFFLINE_FOLDER,
        home=Path.home(),
        arguments=arguments,
    )


class DependencyInstaller:
    """Installs packages into Slicer's Python while Slicer stays usable.

    It runs the commands that ``slicer.packaging.pip_install`` and PyTorch's extension run, in a process of its own.
    Those two are not called themselves: the one cannot be cancelled and, in Slicer's testing mode, blocks and calls
    nobody back; the other blocks Slicer during the whole download and then imports torch into it.
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
        import qt

        if not self._running or self._cancelled:
            return
        self._cancelled = True
        self._process.closeWriteChannel()
        qt.QTimer.singleShot(CANCEL_GRACE_MS, self._killIfCancelled)

    def _startNext(self) -> None:
        import qt

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
        import qt

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
        elif not _unsatisfied(self._missing):
            self._end(None)
        elif exitCode == 0:
            self._end(
                _("pip reports success, but {packages} cannot be found. Restart Slicer and try again.").format(
                    packages=_names(_unsatisfied(self._missing))
                )
            )
        elif any(_NO_NETWORK.search(line) for line in self._lines):
            self._end(offlineAdvice(_unsatisfied(self._missing)))
        else:
            self._end(_("The installation failed. pip says:\n{lines}").format(lines="\n".join(self._lastWords())))

    def _lastWords(self) -> list[str]:
        """pip's own lines about what went wrong."""
        lines = [line for line in self._lines if not line.startswith(("[notice]", "WARNING: Retrying"))]
        return ([line for line in lines if line.startswith("ERROR")] or lines)[-_LINES_IN_ERROR:]

    def _killIfCancelled(self) -> None:
        if self._running and self._cancelled:
            # With its launcher the process loses its input, if it has not done so by now, and follows.
            self._process.kill()

    def _end(self, problem: str | None) -> None:
        self._running = False
        self._onFinished(problem)


def _unsatisfied(lines: list[str]) -> list[str]:
    importlib.invalidate_caches()
    # Before Python 3.12 that leaves the metadata out.
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    return [line for line in lines if not _isSatisfied(Requirement(line))]


def _isSatisfied(requirement: Requirement) -> bool:
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        version = importlib.metadata.version(requirement.name)
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return False
    # What an interrupted installation leaves behind may have no version.
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _names(lines: list[str]) -> str:
    return ", ".join(Requirement(line).name for line in lines)


def _commands(missing: list[str]) -> list[list[str]]:
    """The modules to run, one after another, with their arguments."""
    viaExtension = _torchArguments(missing)
    rest = [line for line in missing if not (viaExtension and _isTorch(line))]
    commands = [["pip", "install", *rest]] if rest else []
    if viaExtension:
        # As PyTorch's extension does: this one finds the build of torch that fits the graphics card.
        commands += [["pip", "install", "light-the-torch>=0.5"], ["light_the_torch", *viaExtension]]
    return commands


def _torchArguments(missing: list[str]) -> list[str] | None:
    """What PyTorch's extension would install for torch; None if it is not there, is another one, or is not needed."""
    torch = next(filter(_isTorch, missing), None)
    if torch is None:
        return None
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        return None
    arguments = getattr(PyTorchUtilsLogic, "_getPipInstallArguments", None)
    if arguments is None or "torchVersionRequirement" not in inspect.signature(arguments).parameters:
        return None
    return arguments(torchVersionRequirement=str(Requirement(torch).specifier))


def _isTorch(line: str) -> bool:
    return Requirement(line).name == "torch"


def _anotherInstallationRuns() -> bool:
    try:
        from slicer.packaging import isPipInstallInProgress
    except ImportError:
        return False
    return isPipInstallInProgress()


def _environment():
    """Slicer's own, as for ``slicer.util.pip_install``: a proxy may be set in it."""
    import qt

    environment = qt.QProcessEnvironment.systemEnvironment()
    settings = {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # Since this version pip can write its progress into a pipe, too.
        if Requirement("pip>=24.1").specifier.contains(importlib.metadata.version("pip")):
            settings["PIP_PROGRESS_BAR"] = "raw"
    for name, value in settings.items():
        environment.insert(name, value)
    return environment


def _system() -> str:
    return {"win32": "Windows", "darwin": "macOS"}.get(sys.platform, "Linux")


def _platformTags() -> list[str]:
    """pip's names for this kind of computer."""
    machine = platform.machine().lower()
    if sys.platform == "win32":
        return [f"win_{machine}"]
    if sys.platform == "darwin":
        return [f"macosx_{max(11, int(platform.mac_ver()[0].partition('.')[0]))}_0_{machine}"]
    return [f"{name}_{machine}" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux2014")]


def _download(missing: list[str], viaExtension: bool = True) -> tuple[str, str]:
    """The size of the download, and what is to be said about the build of torch.

    torch 2.15 on PyPI: for Linux 540 MB and 2.5 GB of NVIDIA's libraries, for Windows 127 MB without CUDA, for macOS
    139 MB (151 MB for torch 2.2, the last one for Intel). From PyTorch's own server, where its extension gets it: about
    200 MB without CUDA, 2.5 to 3.5 GB with it.
    """
    if not any(map(_isTorch, missing)):
        return _("a few MB"), ""
    if sys.platform == "darwin":
        return _("about 150 MB"), ""
    hasNvidia = shutil.which("nvidia-smi") is not None
    if viaExtension and _torchArguments(missing):
        return (
            (_("about 3 GB"), _("This includes support for your NVIDIA graphics card."))
            if hasNvidia
            else (_("about 200 MB"), _("No NVIDIA graphics card was found: the processor will do the work."))
        )
    if sys.platform == "win32":
        return _("about 130 MB"), (
            _("Your NVIDIA graphics card needs a larger build: install the extension PyTorch first to get it.")
            if hasNvidia
            else ""
        )
    return _("about 3 GB"), (
        ""
        if hasNvidia
        else _("Without an NVIDIA graphics card 200 MB are enough: install the extension PyTorch first.")
    )
