"""The command line: arguments in, calls of the engine, sentences and exit codes out."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk
from tqdm import tqdm

import vnet_segmentation
from vnet_segmentation import batch as batch_engine
from vnet_segmentation.device import DEVICE_CHOICES, PRECISIONS, Device, choose_device, set_cpu_threads
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.model_library import find_model, list_models
from vnet_segmentation.network import LAYOUTS
from vnet_segmentation.recipe import load_recipe, recipe_names
from vnet_segmentation.segmenter import Segmenter

if TYPE_CHECKING:
    from vnet_segmentation.training import Progress
    from vnet_segmentation.training_plan import TrainingOptions

EXIT_CODES_HELP = "exit codes: " + ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)


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
        return int(options.command(options))
    except UserError as error:
        print(f"vnet-segmentation: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output, such as head, has gone; what is left of it goes nowhere, so that Python's own
        # flush at exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.CANCELLED
    except (KeyboardInterrupt, Cancelled):
        print("vnet-segmentation: stopped.", file=sys.stderr)
        return ExitCode.CANCELLED


def make_parser() -> argparse.ArgumentParser:
    """The command line's commands and options."""
    parser = argparse.ArgumentParser(
        prog="vnet-segmentation",
        description="Segments the prostate in T2-weighted MR with V-Net. Not for clinical use.",
        epilog=EXIT_CODES_HELP,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {vnet_segmentation.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    segment = _command(commands, "segment", _segment, "segment one scan")
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

    batch = _command(commands, "batch", _batch, "segment many scans; run again to resume")
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

    train = _command(commands, "train", _train, "train a model on labelled cases")
    _add_data_options(train, "one in five")
    _add_network_options(train)
    _add_training_options(train)

    finetune = _command(commands, "finetune", _train, "train a model further on your own cases")
    finetune.add_argument("--base", metavar="MODEL", help="name or folder of the model (default: the bundled one)")
    _add_data_options(finetune, "one in five; with fewer than 10 cases a cross-validation of 3 folds")
    _add_training_options(finetune)

    cross = _command(commands, "crossvalidate", _cross_validate, "train and measure fold by fold; run again to go on")
    cross.add_argument("data", type=Path, metavar="DATA", help="labelled cases, as for train")
    cross.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="gets models, masks and table")
    parts = cross.add_mutually_exclusive_group()
    parts.add_argument("--folds", type=int, default=5, metavar="N", help="default: %(default)s")
    parts.add_argument("--by-site", action="store_true", help="a fold for each site, which its model has not seen")
    cross.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="do only these folds now")
    _add_network_options(cross)
    _add_training_options(cross)

    evaluate = _command(commands, "evaluate", _evaluate, "compare masks with reference masks")
    evaluate.add_argument("data", type=Path, metavar="DATA", help="labelled cases, as for train")
    evaluate.add_argument(
        "--results", type=Path, metavar="DIR", help="masks to compare (default: segment the cases now)"
    )
    evaluate.add_argument("--cases", nargs="+", metavar="NAME", help="only these")
    _add_label_option(evaluate)
    evaluate.add_argument("-o", "--output", type=Path, metavar="CSV", help="also write the table, with every metric")
    _add_segmentation_options(evaluate)

    demo = _command(commands, "demo", _demo, "make a synthetic scan, segment it and compare with the truth")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    _add_segmentation_options(demo)

    models = _command(commands, "models", _models, "list the models on this computer; export, import or delete one")
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
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage (default: %(default)s)")
    parser.add_argument("--bias-correction", action="store_true", help="N4, in training and whenever the model is used")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=recipe_names(), help="recipe (default: finetune with a base model, else default)"
    )
    _add_label_option(parser)
    lengths = ", ".join(f"{name} {load_recipe(name).iterations}" for name in recipe_names())
    parser.add_argument(
        "--iterations", type=int, metavar="N", help=f"length of a run (default: the preset's: {lengths})"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="end after this time at the latest")
    parser.add_argument(
        "--deformation", type=float, default=1.0, metavar="F", help="strength, 0 to 3 (default: %(default)s)"
    )
    parser.add_argument("--no-histogram-matching", action="store_true", help="keep each scan's own grey levels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same run (default: %(default)s)")
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


def _segment(options: argparse.Namespace) -> int:
    from vnet_segmentation.scan_job import Outputs, segment_file

    outputs = Outputs(options.output, options.probability, options.picture, options.report)
    # Before the model is loaded: a slip in a name is answered at once.
    outputs.check(options.scan, options.overwrite)
    segmenter = _segmenter(options)
    with _Bar() as bar:
        report = segment_file(
            segmenter, options.scan, outputs, options.threshold, options.series, options.overwrite, bar.show
        )
    _print_report(report)
    return ExitCode.EMPTY_RESULT if report["volume_ml"] == 0 else ExitCode.OK


def _batch(options: argparse.Namespace) -> int:
    def show(number: int, total: int, row: batch_engine.BatchRow) -> None:
        volume = f" {row.report['volume_ml']:.1f} ml" if row.report else ""
        message = f" - {row.message}" if row.message else ""
        bar.say(f"[{number}/{total}] {row.name}: {row.status}{volume}{message}")

    def progress(fraction: float, sentence: str) -> None:
        interrupt.check()
        bar.show(fraction, sentence)

    settings = batch_engine.BatchOptions(
        suffix=options.format if options.format.startswith(".") else f".{options.format}",
        threshold=options.threshold,
        pictures=options.pictures,
        probabilities=options.probabilities,
        overwrite=options.overwrite,
        pattern=options.pattern,
    )
    batch_engine.check_batch(options.inputs, options.output, settings)
    what = (options.inputs, options.output, settings, show, progress)
    if options.dask:
        from vnet_segmentation.cluster import ModelChoice, run_batch_on_cluster

        choice = ModelChoice(options.model, options.device, options.precision)
        with _Interrupt() as interrupt, _Bar() as bar:
            rows = run_batch_on_cluster(options.dask, choice, *what)
    else:
        segmenter = _segmenter(options)
        with _Interrupt() as interrupt, _Bar() as bar:
            rows = batch_engine.run_batch(segmenter, *what)
    counts = Counter(row.status for row in rows)
    summary = ", ".join(f"{counts[status]} {status}" for status in batch_engine.STATUSES if counts[status])
    print(f"{summary}. Table: {options.output / batch_engine.TABLE_NAME}")
    return batch_engine.exit_code(rows)


def _train(options: argparse.Namespace) -> int:
    from vnet_segmentation.evaluation import format_table
    from vnet_segmentation.processes import join_processes
    from vnet_segmentation.train_model import train_model
    from vnet_segmentation.training_state import state_folder

    settings = _training_options(
        options, tuple(options.validation_cases) if options.validation_cases else options.validation
    )
    with _Interrupt() as interrupt, join_processes(options.device) as (processes, device):
        result = train_model(
            options.data,
            options.output,
            settings,
            _device(device, options.precision),
            options.cache,
            options.resume,
            say=_say if processes.is_first else lambda sentence: None,
            report=_show_training,
            should_stop=interrupt.is_set,
            processes=processes,
        )
    if not processes.is_first:
        return ExitCode.OK
    for heading, rows in (("Before", result.before), ("After", result.after)):
        if rows:
            print(f"{heading}:\n{format_table(rows)}" if result.before else format_table(rows))
    if result.improvement:
        print(result.improvement.sentence)
    print(f"{state_folder(options.output)}, which the training kept to go on, can be removed.")
    print(f"The model is in {options.output}. To use it: --model {options.output}")
    return ExitCode.OK


def _cross_validate(options: argparse.Namespace) -> int:
    from vnet_segmentation import crossvalidation
    from vnet_segmentation.evaluation import format_table

    with _Interrupt() as interrupt:
        rows = crossvalidation.cross_validate(
            options.data,
            options.output,
            None if options.by_site else options.folds,
            _training_options(options),
            _device(options.device, options.precision),
            options.only,
            _say,
            _show_training,
            interrupt.is_set,
        )
    print(format_table(rows))
    print(f"Table and histogram: {options.output / crossvalidation.TABLE_NAME}, {crossvalidation.HISTOGRAM_NAME}")
    return ExitCode.OK


def _training_options(options: argparse.Namespace, validation: int | tuple[str, ...] | None = None) -> TrainingOptions:
    from vnet_segmentation.training_plan import TrainingOptions

    # What the command has no option for is the base model's.
    given = vars(options)
    network: dict[str, Any] = {name: given[name] for name in ("layout", "width", "bias_correction") if name in given}
    return TrainingOptions(
        base=find_model(options.base) if "base" in given else None,
        preset=options.preset,
        **network,
        validation=validation,
        held_out=tuple(given.get("leave_out", ())),
        label=options.label,
        iterations=options.iterations,
        minutes=options.minutes,
        deformation_strength=options.deformation,
        histogram_matching=not options.no_histogram_matching,
        seed=options.seed,
        title=options.title,
        data_terms=options.data_terms,
        names_cases=options.name_cases,
    )


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _show_training(progress: Progress) -> None:
    parts = [f"{progress.fraction:6.1%}", f"iteration {progress.iteration}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.validation_dice is not None:
        parts.append(f"validation Dice {progress.validation_dice:.3f}")
    if progress.remaining_s is not None:
        parts.append(f"{_duration(progress.remaining_s)} left")
    print("  ".join(parts), flush=True)


def _evaluate(options: argparse.Namespace) -> int:
    from vnet_segmentation.dataset import find_cases
    from vnet_segmentation.evaluation import compare_results, evaluate_cases, format_table, write_table
    from vnet_segmentation.train_model import cases_known_to

    cases = [replace(case, label=options.label) for case in find_cases(options.data)]
    if options.cases:
        unknown = set(options.cases) - {case.name for case in cases}
        if unknown:
            raise UserError(f"There is no case {', '.join(sorted(unknown))} in the data set.", ExitCode.USAGE)
        cases = [case for case in cases if case.name in options.cases]
    known: list[str] = []
    if options.results:
        rows = list(compare_results(options.results, cases))
    else:
        segmenter = _segmenter(options)
        known = cases_known_to(segmenter.description, cases)
        evaluated = evaluate_cases(segmenter, cases, options.threshold)
        rows = list(tqdm(evaluated, total=len(cases), disable=not sys.stderr.isatty(), leave=False))
    print(format_table(rows))
    if known:
        print(f"The model has learned from {len(known)} of these cases, by their names: expect less on new ones.")
    if options.output:
        write_table(rows, options.output)
    return ExitCode.OK


def _demo(options: argparse.Namespace) -> int:
    from vnet_segmentation.demo import run_demo

    segmenter = _segmenter(options)
    with _Bar() as bar:
        report, dice = run_demo(segmenter, options.output, options.threshold, bar.show)
    _print_report(report)
    print(f"Dice against the known truth of this synthetic scan: {dice:.3f}")
    print(f"Scan, truth, mask, picture and report are in {options.output}.")
    return ExitCode.OK


def _models(options: argparse.Namespace) -> int:
    from vnet_segmentation import model_files

    if options.export:
        model, file = options.export
        model_files.export_model(find_model(model), Path(file))
        print(f"Saved {file}")
        return ExitCode.OK
    if options.import_file:
        print(f"Added {model_files.import_model(options.import_file)}")
        return ExitCode.OK
    if options.delete:
        model_files.delete_model(options.delete)
        print(f"Deleted {options.delete}")
        return ExitCode.OK
    for model in list_models():
        origin = "bundled" if model.bundled else "own"
        print(f"{model.name} ({origin}): {model.problem or model.title}\n    {model.folder}")
    return ExitCode.OK


def _device(name: str, precision: str) -> Device:
    set_cpu_threads()
    return choose_device(name, precision)


def _segmenter(options: argparse.Namespace) -> Segmenter:
    return Segmenter(find_model(options.model), _device(options.device, options.precision))


def _print_report(report: dict[str, Any]) -> None:
    diameters = " x ".join(f"{value:.0f}" for value in report["diameters_mm"].values())
    confidence = report["confidence"]
    print(f"Prostate {report['volume_ml']:.1f} ml, {diameters} mm (left-right x front-back x head-foot)")
    print(f"Confidence {confidence['value']:.2f} ({confidence['level']})")
    print(
        f"{sum(report['seconds'].values()):.1f} s on {report['device']['name']} in {report['device']['precision']}. "
        f"{report['device']['reason']}"
    )
    for warning in report["warnings"]:
        print(f"Warning: {warning}")
    print(f"Mask: {report['mask']}")


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1.5:
        return f"{seconds:.0f} s"
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min"


class _Bar:
    """A progress bar where a person watches, and nothing where a file does."""

    def __init__(self) -> None:
        self._bar = tqdm(total=100, disable=not sys.stderr.isatty(), leave=False, bar_format="{l_bar}{bar}| {elapsed}")

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, fraction: float, sentence: str) -> None:
        self._bar.set_description(sentence, refresh=False)
        self._bar.update(round(100 * fraction) - self._bar.n)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(line)
        sys.stdout.flush()


class _Interrupt:
    """Turns Ctrl+C into a request to stop after the current iteration; a second one stops at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.is_set = self._event.is_set

    def check(self) -> None:
        """Raises `Cancelled` if a stop was asked for."""
        if self.is_set():
            raise Cancelled

    def __enter__(self) -> _Interrupt:
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._event.set()
