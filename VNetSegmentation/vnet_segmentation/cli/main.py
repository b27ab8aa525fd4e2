"""The command line: its commands and options, and what becomes of an error."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

import vnet_segmentation
from vnet_segmentation.cli import commands as cli_commands
from vnet_segmentation.device import DEVICE_CHOICES, PRECISIONS
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.network.vnet import LAYOUTS
from vnet_segmentation.training.recipe import load_recipe, recipe_names

EXIT_CODES_HELP = "exit codes: " + ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)

_USERS_ERRORS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS, errno.EIO}


def run(arguments: Sequence[str]) -> int:
    """Runs one command.

    Returns:
        An `ExitCode`. What the user can mend is one sentence on standard error; a bug keeps its traceback.
    """
    options, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        # By the command, whose options these should have been.
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    # A pipe or a log on Windows may be in a code page that lacks a scan's name: a "?" there is better than a crash.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # What ITK has to say of odd headers is in the errors that the user gets.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        code = int(options.command(options))
        # Here, where a full disk can still be told, and not when Python ends.
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"vnet-segmentation: {error}{_way_out(error, options)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output, such as head, has gone.
        _drop_output()
        return ExitCode.CANCELLED
    except OSError as error:
        # What no command foresaw: a folder of somebody else's, a name that is too long, a full disk. All else is a bug.
        if error.errno not in _USERS_ERRORS:
            raise
        _drop_output()
        what = error.filename or "The output"
        print(f"vnet-segmentation: {what} cannot be used: {error.strerror or error}.", file=sys.stderr)
        return ExitCode.CANNOT_WRITE if error.errno in (errno.ENOSPC, errno.EROFS) else ExitCode.BAD_INPUT
    except (KeyboardInterrupt, Cancelled) as stop:
        print(f"vnet-segmentation: {stop if str(stop) else 'stopped.'}", file=sys.stderr)
        return ExitCode.CANCELLED


def _way_out(error: UserError, options: argparse.Namespace) -> str:
    """What the engine's sentence cannot name: the panel shows it, too."""
    if error.argument not in vars(options):
        return ""
    # After a list it has a line of its own.
    return ("\n" if "\n" in str(error) else " ") + f"See the option --{error.argument}."


def _drop_output() -> None:
    """What cannot be printed goes nowhere, so that Python's own flush at exit does not complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser() -> argparse.ArgumentParser:
    """The command line's commands and options."""
    parser = argparse.ArgumentParser(
        prog="vnet-segmentation",
        description="Segments the prostate in T2-weighted MR with V-Net. Not for clinical use.",
        epilog=EXIT_CODES_HELP,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {vnet_segmentation.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    segment = _command(commands, "segment", cli_commands.segment, "segment one scan")
    segment.add_argument("scan", type=Path, metavar="SCAN", help="NIfTI, NRRD or MetaImage file, or a DICOM folder")
    segment.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MASK", help=".nii.gz, .nii, .nrrd, .mha or .seg.nrrd"
    )
    segment.add_argument("--series", help="DICOM series to take, if the folder holds several")
    segment.add_argument("--probability", type=Path, metavar="FILE", help="also write the probability volume")
    segment.add_argument("--picture", type=Path, metavar="PNG", help="also draw the contour on slices")
    segment.add_argument("--report", type=Path, metavar="JSON", help="also write the report")
    segment.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_segmentation_options(segment)

    batch = _command(commands, "batch", cli_commands.batch, "segment many scans; run again to resume")
    batch.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help="a folder to search with its sub-folders, a scan file or a DICOM folder",
    )
    batch.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="gets masks, results.csv and results.json"
    )
    batch.add_argument("--pattern", default="*", metavar="GLOB", help="only scans with such a name (default: all)")
    batch.add_argument("--format", default=".nii.gz", metavar="SUFFIX", help="of the masks (default: .nii.gz)")
    batch.add_argument("--probabilities", action="store_true", help="also write the probability volumes")
    batch.add_argument("--pictures", action="store_true", help="also draw the contours on slices")
    batch.add_argument("--overwrite", action="store_true", help="segment scans again that have a mask already")
    batch.add_argument("--dask", metavar="ADDRESS", help="compute on a Dask cluster, such as tcp://host:8786")
    _add_segmentation_options(batch)

    train = _command(commands, "train", cli_commands.train, "train a model on labelled cases")
    _add_data_options(train, "one in five")
    _add_network_options(train)
    _add_training_options(train)

    finetune = _command(commands, "finetune", cli_commands.train, "train a model further on your own cases")
    finetune.add_argument("--base", metavar="MODEL", help="name or folder of the model (default: the bundled one)")
    _add_data_options(finetune, "one in five; with fewer than 20 cases a cross-validation of 3 folds")
    _add_training_options(finetune)

    cross = _command(
        commands, "crossvalidate", cli_commands.cross_validate, "train and measure fold by fold; run again to go on"
    )
    cross.add_argument("data", type=Path, metavar="DATA", help="labelled cases, as for train")
    cross.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="gets models, masks and table")
    parts = cross.add_mutually_exclusive_group()
    parts.add_argument("--folds", type=int, default=5, metavar="N", help="default: %(default)s")
    parts.add_argument("--by-site", action="store_true", help="a fold for each site, which its model has not seen")
    cross.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="do only these folds now")
    _add_network_options(cross)
    _add_training_options(cross)

    evaluate = _command(commands, "evaluate", cli_commands.evaluate, "compare masks with reference masks")
    evaluate.add_argument("data", type=Path, metavar="DATA", help="labelled cases, as for train")
    evaluate.add_argument(
        "--results", type=Path, metavar="DIR", help="masks to compare (default: segment the cases now)"
    )
    evaluate.add_argument("--cases", nargs="+", metavar="NAME", help="only these")
    _add_label_option(evaluate)
    evaluate.add_argument("-o", "--output", type=Path, metavar="CSV", help="also write the table, with every metric")
    evaluate.add_argument("--overwrite", action="store_true", help="replace the table if it exists")
    _add_segmentation_options(evaluate)

    demo = _command(commands, "demo", cli_commands.demo, "make a synthetic scan, segment it and compare with the truth")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    demo.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_segmentation_options(demo)

    models = _command(
        commands, "models", cli_commands.models, "list the models on this computer; export, import or delete one"
    )
    actions = models.add_mutually_exclusive_group()
    actions.add_argument("--export", nargs=2, metavar=("MODEL", "FILE"), help="write a model as one .zip file")
    actions.add_argument("--import", dest="import_file", type=Path, metavar="FILE", help="add the model in a .zip file")
    actions.add_argument("--delete", metavar="MODEL", help="remove one of your own")
    return parser


def _command(commands: Any, name: str, function: Callable[..., int], description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, allow_abbrev=False, help=description, description=description.capitalize() + ".", epilog=EXIT_CODES_HELP
    )
    parser.set_defaults(command=function, parser=parser)
    return parser


def _add_data_options(parser: argparse.ArgumentParser, default_validation: str) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="PROMISE12 or nnU-Net folder, or a CSV manifest")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL", help="folder of the new model")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--validation", type=int, metavar="N", help=f"cases to set apart (default: {default_validation})"
    )
    chosen.add_argument("--validation-cases", nargs="+", metavar="NAME", help="the cases to set apart")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NAME", help="cases not to look at")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="prepared cases (default: MODEL.training/cache)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", choices=LAYOUTS, help="of the network (default: the preset's)")
    parser.add_argument("--width", type=int, help="channels of the first stage (default: the preset's)")
    parser.add_argument(
        "--bias-correction",
        action=argparse.BooleanOptionalAction,
        help="N4, in training and whenever the model is used (default: the preset's)",
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=recipe_names(), help="recipe (default: finetune with a base model, else default)"
    )
    _add_label_option(parser)
    lengths = ", ".join(f"{name} {load_recipe(name).iterations}" for name in recipe_names())
    parser.add_argument(
        "--iterations", type=int, metavar="N", help=f"length of a run (default: the preset's: {lengths})"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="train for this time at the latest, checks and measurements apart"
    )
    parser.add_argument(
        "--deformation", type=float, default=1.0, metavar="F", help="strength, 0 to 3 (default: %(default)s)"
    )
    parser.add_argument("--no-histogram-matching", action="store_true", help="keep each scan's own grey levels")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same run, on the same CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--name-cases", action="store_true", help="write the cases' names into the model (they may be patients' names)"
    )
    parser.add_argument("--title", default="", help="of the model, for people")
    parser.add_argument("--data-terms", default="", help="source, licence and citation of the data, for the model card")
    _add_device_options(parser)


def _add_label_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", type=int, metavar="N", help="of the prostate in masks with several; 0: all labels")


def _add_segmentation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="name or folder of a model (default: the bundled one)")
    parser.add_argument(
        "--threshold", type=_threshold, default=0.5, help="probability of the contour (default: %(default)s)"
    )
    _add_device_options(parser)


def _threshold(text: str) -> float:
    # Here, so that a slip is answered at once and not by every scan of a batch.
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1")


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help=f"{', '.join(DEVICE_CHOICES)} or cuda:N (default: auto)")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS), help="default: %(default)s")
