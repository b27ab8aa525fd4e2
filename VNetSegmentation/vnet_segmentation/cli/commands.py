"""The commands of the command line: each takes its parsed options and returns an `ExitCode`.

What one command alone needs is imported in it, so that the others begin sooner.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vnet_segmentation.batch.cases import BatchOptions
from vnet_segmentation.batch.run import check_batch, exit_code, run_batch
from vnet_segmentation.batch.tables import STATUSES, TABLE_NAME, BatchRow
from vnet_segmentation.cli.terminal import Interrupt, ProgressBar, format_duration
from vnet_segmentation.device import Device, choose_device, set_cpu_threads
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.models.bundle import DESCRIPTION_FILE
from vnet_segmentation.models.library import description_of, find_model, known_cases, list_models
from vnet_segmentation.segmentation.segmenter import Segmenter

if TYPE_CHECKING:
    from vnet_segmentation.training.options import TrainingOptions
    from vnet_segmentation.training.training_run import Progress


def segment(options: argparse.Namespace) -> int:
    """Segments one scan."""
    from vnet_segmentation.segmentation.scan_job import Outputs, segment_file

    outputs = Outputs(options.output, options.probability, options.picture, options.report)
    # Before the model is loaded: a slip in a name is answered at once.
    outputs.check(options.scan, options.overwrite)
    segmenter = _segmenter(options)
    with ProgressBar() as bar:
        report = segment_file(
            segmenter, options.scan, outputs, options.threshold, options.series, options.overwrite, bar.show
        )
    _print_report(report)
    return ExitCode.EMPTY_RESULT if report["volume_ml"] == 0 else ExitCode.OK


def batch(options: argparse.Namespace) -> int:
    """Segments many scans, here or on a Dask cluster."""

    def show(number: int, total: int, row: BatchRow) -> None:
        report = row.report
        result = f" {report['volume_ml']:.1f} ml, confidence {report['confidence']['level']}" if report else ""
        message = f" - {row.message}" if row.message else ""
        bar.say(f"[{number}/{total}] {row.name}: {row.status}{result}{message}")

    def progress(fraction: float, sentence: str) -> None:
        interrupt.check()
        bar.show(fraction, sentence)

    settings = BatchOptions(
        suffix=options.format if options.format.startswith(".") else f".{options.format}",
        threshold=options.threshold,
        pictures=options.pictures,
        probabilities=options.probabilities,
        overwrite=options.overwrite,
        pattern=options.pattern,
    )
    check_batch(options.inputs, options.output, settings)
    going_on = _says_how_to_go_on(
        "With --overwrite the same command begins anew." if options.overwrite else "Give the same command to go on."
    )
    what = (options.inputs, options.output, settings, show, progress)
    if options.dask:
        # The workers, who find it by its name, do not see the folders here.
        _find_model(options.model)
        from vnet_segmentation.batch.cluster import ModelChoice, run_batch_on_cluster

        choice = ModelChoice(options.model, options.device, options.precision)
        with going_on, Interrupt() as interrupt, ProgressBar() as bar:
            rows = run_batch_on_cluster(options.dask, choice, *what)
    else:
        segmenter = _segmenter(options)
        with going_on, Interrupt() as interrupt, ProgressBar() as bar:
            rows = run_batch(segmenter, *what)
    counts = Counter(row.status for row in rows)
    summary = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    print(f"{summary}. Table: {options.output / TABLE_NAME}")
    if counts["skipped"]:
        print("To segment what was skipped again: --overwrite")
    return exit_code(rows)


def train(options: argparse.Namespace) -> int:
    """Trains a model, from scratch or from a base model."""
    from vnet_segmentation.evaluation.table import format_table
    from vnet_segmentation.models.training_state import begun, state_folder
    from vnet_segmentation.processes import join_processes
    from vnet_segmentation.training.train_model import train_model

    settings = _training_options(
        options, tuple(options.validation_cases) if options.validation_cases else options.validation
    )
    with (
        _says_how_to_go_on(
            "Add --resume to the same command to go on.", lambda: begun(state_folder(options.output)) is not None
        ),
        Interrupt() as interrupt,
        join_processes(options.device) as (processes, device),
    ):
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
    print(f"The model is in {options.output}. To use it: --model {_as_path(options.output)}")
    return ExitCode.OK


def cross_validate(options: argparse.Namespace) -> int:
    """Trains and measures fold by fold."""
    from vnet_segmentation.evaluation.table import format_table
    from vnet_segmentation.training import crossvalidation

    with _says_how_to_go_on("Give the same command to go on."), Interrupt() as interrupt:
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


@contextmanager
def _says_how_to_go_on(how: str, is_possible: Callable[[], bool] = lambda: True) -> Iterator[None]:
    try:
        yield
    except Cancelled as stop:
        if not is_possible():
            how = "Give the same command to begin again."
        raise Cancelled(f"{str(stop) or 'Stopped.'} {how}") from None


def _training_options(options: argparse.Namespace, validation: int | tuple[str, ...] | None = None) -> TrainingOptions:
    from vnet_segmentation.training.options import TrainingOptions

    # What the command has no option for is the base model's.
    given = vars(options)
    network: dict[str, Any] = {name: given[name] for name in ("layout", "width", "bias_correction") if name in given}
    return TrainingOptions(
        base=_find_model(options.base) if "base" in given else None,
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
        parts.append(f"{format_duration(progress.remaining_s)} left")
    print("  ".join(parts), flush=True)


def evaluate(options: argparse.Namespace) -> int:
    """Compares masks with reference masks."""
    from vnet_segmentation.datasets.dataset import check_names, find_cases
    from vnet_segmentation.datasets.inspection import inspect_cases, refuse_problems
    from vnet_segmentation.evaluation.evaluate import compare_results, evaluate_cases
    from vnet_segmentation.evaluation.table import check_table, format_table, write_table
    from vnet_segmentation.models.bundle import read_description

    if options.results:
        # The model is asked what it has learned from, but segments nothing.
        for name in ("threshold", "device", "precision"):
            if vars(options)[name] != options.parser.get_default(name):
                options.parser.error(f"argument --{name}: not allowed with argument --results")
    # Before anything is computed: a slip in a name is answered at once.
    if options.output:
        check_table(options.output, options.overwrite)
    found = [replace(case, label=options.label) for case in find_cases(options.data)]
    chosen = set(options.cases or [case.name for case in found])
    check_names(chosen, found)
    cases = [case for case in found if case.name in chosen]
    if options.results:
        others = [case for case in found if case.name not in chosen]
        rows = list(compare_results(options.results, cases, others))
        of_model = {sha256: description_of(sha256) for sha256 in {row.model_sha256 for row in rows}}
        if options.model:
            # It may be in no library.
            description = read_description(_find_model(options.model))
            of_model[description["weights"]["sha256"]] = description
        # The scans have not been read; some may not be there.
        inspected = inspect_cases(cases, for_training=False) if any(of_model.values()) else []
        voxel_hashes = {one.case.name: one.voxel_hash for one in inspected}
    else:
        segmenter = _segmenter(options)
        # All of them first: one that cannot be read costs no other its result.
        voxel_hashes = refuse_problems(cases, for_training=False)
        evaluated = evaluate_cases(segmenter, cases, options.threshold)
        rows = list(tqdm(evaluated, total=len(cases), disable=not sys.stderr.isatty(), leave=False))
        of_model = {rows[0].model_sha256: segmenter.description}
    print(format_table(rows))
    known = {sha256: known_cases(description, voxel_hashes) for sha256, description in of_model.items() if description}
    n_known = sum(row.case in known.get(row.model_sha256, ()) for row in rows)
    if n_known:
        print(f"The model has learned from {n_known} of these cases, by voxels or name: expect less on new ones.")
    if options.output:
        write_table(rows, options.output)
        print(f"Table: {options.output}")
    return ExitCode.OK


def demo(options: argparse.Namespace) -> int:
    """Segments a synthetic scan whose truth is known."""
    from vnet_segmentation.segmentation.demo import check_demo, run_demo

    check_demo(options.output, options.overwrite)
    segmenter = _segmenter(options)
    with ProgressBar() as bar:
        report, dice = run_demo(segmenter, options.output, options.threshold, bar.show)
    _print_report(report)
    print(f"Dice against the known truth of this synthetic scan: {dice:.3f}")
    print(f"Scan, truth, mask, picture and report are in {options.output}.")
    return ExitCode.OK


def models(options: argparse.Namespace) -> int:
    """Lists the models of this computer; exports, imports or deletes one."""
    from vnet_segmentation.models import transfer as model_files

    if options.export:
        model, file = options.export
        model_files.export_model(_find_model(model), Path(file))
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
    return Segmenter(_find_model(options.model), _device(options.device, options.precision))


def _find_model(name_or_path: str | None) -> Path:
    """`find_model` for a user who may mean, by the name of a known model, a folder that is before their eyes.

    Raises:
        UserError: as `find_model`, or the name is that of two different models (`ExitCode.BAD_MODEL`).
    """
    found = find_model(name_or_path)
    if name_or_path and (Path(name_or_path) / DESCRIPTION_FILE).is_file() and not found.samefile(name_or_path):
        here = _as_path(Path(name_or_path))
        raise UserError(
            f"{name_or_path} is the name of a known model and of a folder here. Give {here} for the one in this "
            f"folder, or {found} for the known one.",
            ExitCode.BAD_MODEL,
        )
    return found


def _as_path(folder: Path) -> str:
    """As a command takes it for a folder, whatever models there are of its name."""
    return str(folder) if len(folder.parts) > 1 else os.path.join(os.curdir, folder)


def _print_report(report: dict[str, Any]) -> None:
    diameters = " x ".join(f"{value:.0f}" for value in report["diameters_mm"].values())
    confidence = report["confidence"]
    if report["series"]:
        print(f"Series {report['series']}")
    print(f"Prostate {report['volume_ml']:.1f} ml, {diameters} mm (left-right x front-back x head-foot)")
    print(f"Confidence {confidence['value']:.2f} ({confidence['level']})")
    print(
        f"{sum(report['seconds'].values()):.1f} s on {report['device']['name']} in {report['device']['precision']}. "
        f"{report['device']['reason']}"
    )
    for warning in report["warnings"]:
        print(f"Warning: {warning}")
    print(f"Mask: {report['mask']}")
