"""The engine's command line in a process of PythonSlicer, from a Slicer without a window."""

import argparse
import shutil
import subprocess
from collections.abc import Sequence

import slicer

from vnet_segmentation.errors import ExitCode, UserError
from VNetSegmentationLib.dependencies import REQUIREMENTS, RUN_MODULE, installationAdvice, missingPackages


def scriptParser(script: str, description: str) -> argparse.ArgumentParser:
    """A parser for the options that follow a script's name; what was not given is not among them."""
    # No --help, which Slicer keeps for itself, as it does --version, --verbose and --testing.
    return argparse.ArgumentParser(
        prog=f"Slicer --no-splash --no-main-window --python-script {script}",
        description=description,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )


def checkPackages() -> None:
    """Raises `UserError` if the engine's packages are not installed."""
    missing = missingPackages(REQUIREMENTS)
    if missing:
        raise UserError(installationAdvice(missing), ExitCode.MISSING_DEPENDENCY)


def optionArguments(options: dict) -> list[str]:
    """Options as a command line has them: True stands alone, lists follow their name."""
    arguments = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            arguments += [option, *map(str, value)]
        else:
            arguments.append(option if value is True else f"{option}={value}")
    return arguments


def runEngine(arguments: Sequence[str], currentFolder: str) -> int:
    """Runs ``vnet-segmentation ARGUMENTS``, prints what it says line by line, and returns its exit code."""
    python = shutil.which("PythonSlicer")
    if python is None:
        raise UserError("PythonSlicer was not found. Install Slicer again.", ExitCode.MISSING_DEPENDENCY)
    process = subprocess.Popen(
        [python, str(RUN_MODULE), "vnet_segmentation", *arguments],
        cwd=currentFolder,
        # The launcher PythonSlicer adds to it what Slicer's Python needs.
        env={**slicer.util.startupEnvironment(), "PYTHONUTF8": "1"},
        # Never written to: it closes when Slicer ends, in whatever way, and then the engine stops, too.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    with process:
        for line in process.stdout:
            print(line.rstrip("\n"), flush=True)
    # A process that was killed has no exit code of its own.
    return process.returncode if process.returncode >= 0 else int(ExitCode.SOME_FAILED)
