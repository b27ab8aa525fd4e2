"""The Python packages that the worker needs and Slicer does not bring: which are missing, and what to say of it.

PyTorch itself is never imported here: in Slicer's process it costs seconds, memory and, installed wrongly, Slicer.
"""

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from pathlib import Path

from slicer.i18n import tr as _

try:
    from packaging.requirements import Requirement
except ImportError:
    # Slicer without slicer.packaging need not have it, but has pip.
    from pip._vendor.packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"

RUN_MODULE = Path(__file__).resolve().parents[1] / "Scripts" / "run_module.py"
"""Script for PythonSlicer that runs a module in a process that ends when its standard input closes."""


_OFFLINE_FOLDER = "vnet-packages"


def missingPackages(requirementsPath: str | Path) -> list[str]:
    """The lines of a requirements file that this Python does not satisfy, seen from the packages' metadata.

    What was installed a moment ago by another process counts.
    """
    lines = (line.partition("#")[0].strip() for line in Path(requirementsPath).read_text("utf-8").splitlines())
    return unsatisfied([line for line in lines if line])


def installationQuestion(missing: list[str]) -> str:
    """What to ask the user before `missing`, lines of `missingPackages`, is installed: what it is, and how large."""
    size, remark = _download(missing)
    sentences = (
        _("Segmenting needs Python packages that are not installed in Slicer: {packages}.").format(
            packages=names(missing)
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
    ).format(packages=names(missing), lines=" ".join(f'"{line}"' for line in missing))


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


def unsatisfied(lines: list[str]) -> list[str]:
    """Those of the lines of a requirements file that this Python does not satisfy now."""
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


def names(lines: list[str]) -> str:
    """The packages of lines of a requirements file, for a sentence."""
    return ", ".join(Requirement(line).name for line in lines)


def torchViaExtension(missing: list[str]) -> str | None:
    """The line of torch, if it is missing and comes in the way of PyTorch's extension; None if that is not there."""
    if importlib.util.find_spec("PyTorchUtils") is None:
        return None
    return next(filter(_isTorch, missing), None)


def _isTorch(line: str) -> bool:
    return Requirement(line).name == "torch"


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
    if viaExtension and torchViaExtension(missing):
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
