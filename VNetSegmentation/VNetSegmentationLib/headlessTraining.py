"""The engine's training from a Slicer without a window: its arguments."""

import argparse
import os
import sys
from collections.abc import Sequence

from vnet_segmentation.errors import ExitCode, UserError
from VNetSegmentationLib.headlessEngine import checkPackages, optionArguments, runEngine, scriptParser


def runHeadlessTraining(arguments: Sequence[str]) -> int:
    """Trains a model as the command line says, in a process of PythonSlicer; what that prints is printed here.

    Returns:
        The exit code: 0, 2 for wrong arguments, 3 if a Python package is missing, and otherwise as of
        ``vnet-segmentation``.

    Raises:
        SystemExit: with code 2, for arguments that are none.
    """
    if not arguments:
        print(_parser().format_help(), file=sys.stderr)
        return int(ExitCode.USAGE)
    options = vars(_parser().parse_args(arguments))
    data, output = (os.path.abspath(options.pop(name)) for name in ("data", "output"))
    command = "train" if options.pop("from_scratch", False) else "finetune"
    try:
        checkPackages()
        return runEngine([command, data, "-o", output, *optionArguments(options)], os.getcwd())
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        return int(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    # No --title, which Qt takes on Linux, as it does --icon, --geometry, --style, --platform, --session and --display.
    parser = scriptParser("train.py", "Trains a model on your own cases. With --resume it goes on where it stopped.")
    parser.add_argument("--data", required=True, metavar="DIR", help="PROMISE12 or nnU-Net folder, or a CSV manifest")
    parser.add_argument("--output", required=True, metavar="MODEL", help="folder of the new model")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--base", metavar="MODEL", help="name or folder to start from (default: the bundled model)")
    start.add_argument("--from-scratch", action="store_true", help="start from no model")
    parser.add_argument("--minutes", metavar="M", help="end after this time at the latest")
    parser.add_argument("--iterations", metavar="N", help="of each run (default: the recipe's)")
    parser.add_argument("--validation-cases", nargs="+", metavar="NAME", help="cases that only judge the model")
    parser.add_argument("--leave-out", nargs="+", metavar="NAME", help="cases not to look at")
    parser.add_argument("--label", metavar="N", help="of the prostate in masks with several; 0: all labels")
    parser.add_argument("--deformation", metavar="F", help="strength, 0 to 3 (default: 1)")
    parser.add_argument("--no-histogram-matching", action="store_true", help="keep each scan's own grey levels")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--seed", metavar="N", help="the same seed gives the same run, on the CPU (default: 0)")
    parser.add_argument("--model-title", dest="title", metavar="TITLE", help="of the model, for people")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was stopped")
    return parser
