"""From a data set to a model bundle: checks, cache, training, evaluation by the path that users take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.bundle import check_destination, save_bundle
from vnet_segmentation.dataset import Case, Problem, check_cases, find_cases, split_by_site
from vnet_segmentation.device import Device, is_out_of_memory
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.evaluation import Row, evaluate_cases, summarise
from vnet_segmentation.preprocessing import Preprocessing
from vnet_segmentation.recipe import load_recipe
from vnet_segmentation.segmenter import Segmenter
from vnet_segmentation.training import Progress, TrainingRun
from vnet_segmentation.training_cache import load_cases, make_synthetic_cases

_MAX_WIDTH = 64
"""What a bundle may have at most; better known before the training than after it."""
_N_SYNTHETIC_CASES = 48
_N_VALIDATION_SHARE = 5
"""One case in so many is set apart for validation unless the user says otherwise."""


@dataclass(frozen=True)
class TrainingOptions:
    """What the user chooses."""

    preset: str = "default"
    layout: str = "paper"
    width: int = 8
    validation: int | tuple[str, ...] | None = None
    """How many cases to set apart, or which; None: one in five. Never more than leaves one case per site. Where the
    data set says itself which cases are for validation, a number is ignored."""
    held_out: tuple[str, ...] = ()
    """Cases that this training must not see at all, not even to choose its best weights."""
    iterations: int | None = None
    """None: as many as the preset says."""
    minutes: float | None = None
    seed: int = 0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    title: str = ""
    data_terms: str = ""
    """Source, licence and citation of the data, for the model card."""


def train_model(
    data: Path,
    model: Path,
    options: TrainingOptions,
    device: Device,
    cache: Path | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    report: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Trains a model and writes its bundle.

    While it trains, the state is kept in the folder `<model>.training`, from which `resume` goes on; it is not part
    of the bundle and can be deleted afterwards.

    Args:
        data: see `dataset.find_cases`.
        model: folder of the bundle to write; must not exist, unless a finished run is resumed to write it anew.
        cache: folder of prepared cases; None: in `<model>.training`.
        resume: go on from the checkpoint, if there is one.
        say: told what happens, a sentence at a time.
        report: see `TrainingRun.run`.
        should_stop: asked before each case is prepared and after each iteration.

    Returns:
        Validation metrics on the cases' own grid, measured through the written bundle; empty without validation.

    Raises:
        UserError: the options or the data have problems (all of the data's are listed), the output exists, the
            checkpoint is damaged or another run's, the training diverged, or the run was stopped
            (`ExitCode.CANCELLED`; once it had begun to train, a checkpoint is there).
    """
    check_options(options)
    state_folder = model.with_name(model.name + ".training")
    checkpoint = state_folder / "checkpoint.safetensors"
    if checkpoint.exists() and not resume:
        raise UserError(
            f"{checkpoint} is of an earlier training. Add --resume to go on with it, or delete it.",
            ExitCode.CANNOT_WRITE,
        )
    # A run that was interrupted after its bundle was written, while it was evaluated, writes it again.
    check_destination(model, model.name, overwrite=checkpoint.exists())
    cases = find_cases(data)
    say(f"Checking {len(cases)} cases")
    problems = check_cases(cases)
    if problems:
        raise UserError(_list_problems(problems))
    training, validation = choose_validation(cases, options)
    recipe = load_recipe(options.preset)
    if options.iterations is not None:
        recipe = replace(recipe, iterations=options.iterations)
    cache = cache or state_folder / "cache"

    def prepare_next(name: str) -> None:
        if should_stop():
            raise UserError("Stopped before the training began. Give the same command to go on.", ExitCode.CANCELLED)
        say(f"Preparing {name}")

    prepared = load_cases([*training, *validation], options.preprocessing, cache, prepare_next)
    synthetic = []
    if recipe.synthetic_probability:
        prepare_next(f"{_N_SYNTHETIC_CASES} synthetic cases")
        synthetic = make_synthetic_cases(_N_SYNTHETIC_CASES, options.preprocessing)
    run = TrainingRun(
        network={"layout": options.layout, "width": options.width},
        recipe=recipe,
        preprocessing=options.preprocessing,
        cases=prepared[: len(training)],
        validation=prepared[len(training) :],
        synthetic=synthetic,
        device=device,
        seed=options.seed,
        minutes=options.minutes,
    )
    if checkpoint.exists():
        run.resume(checkpoint)
        say(f"Going on at iteration {run.iteration}")
    say(f"Training on {len(training)} cases, {len(validation)} set apart for validation. {run.device.reason}")
    try:
        finished = run.run(report, lambda: run.save(checkpoint), should_stop)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"The memory of {run.device.name} is too small for this training. Choose a smaller --width.",
            ExitCode.OUT_OF_MEMORY,
        ) from error
    if not finished:
        raise UserError(
            f"Stopped at iteration {run.iteration}. Add --resume to the same command to go on.", ExitCode.CANCELLED
        )
    return export_model(run, model, options, training, validation, say)


def check_options(options: TrainingOptions) -> None:
    """Refuses what would fail only after hours.

    Raises:
        UserError: a number out of range, or a title of several lines (`ExitCode.USAGE`).
    """
    for is_right, sentence in (
        (1 <= options.width <= _MAX_WIDTH, f"The width is {options.width}. Choose 1 to {_MAX_WIDTH}."),
        (options.iterations is None or options.iterations >= 1, "A training has at least 1 iteration."),
        (options.minutes is None or options.minutes > 0, "The time for a training must be more than 0 minutes."),
        (0 <= options.seed < 2**63, f"The seed is {options.seed}. Choose 0 or a positive number below 2^63."),
        (options.title.isprintable(), "The title must be one line of printable characters."),
    ):
        if not is_right:
            raise UserError(sentence, ExitCode.USAGE)


def export_model(
    run: TrainingRun,
    model: Path,
    options: TrainingOptions,
    training: Sequence[Case],
    validation: Sequence[Case],
    say: Callable[[str], None],
) -> list[Row]:
    """Writes the bundle of a finished run, and measures it as written, 8-bit weights and all.

    Should the evaluation fail, the bundle is there without its metrics.
    """
    description = describe_model(run, model.name, options, training, validation)
    save_bundle(model, run.best_network, description, quantise=True, overwrite=True)
    if not validation:
        return []
    say(f"Evaluating {len(validation)} cases that the model has not seen")
    rows = list(evaluate_cases(Segmenter(model, run.device), validation))
    description["metrics"] = summarise(rows)
    save_bundle(model, run.best_network, description, quantise=True, overwrite=True)
    return rows


def describe_model(
    run: TrainingRun, name: str, options: TrainingOptions, training: Sequence[Case], validation: Sequence[Case]
) -> dict[str, Any]:
    """model.json, but for what `save_bundle` fills in."""
    return {
        "name": name,
        "title": options.title or f"Prostate in T2-weighted MR: V-Net {options.layout}, width {options.width}",
        "preprocessing": run.preprocessing.as_dict(),
        "labels": ["background", "prostate"],
        "training": {
            "data_terms": options.data_terms,
            "training_cases": [case.name for case in training],
            "validation_cases": [case.name for case in validation],
            "preset": options.preset,
            "recipe": run.recipe.as_dict(),
            "iterations": run.iteration,
            "minutes": round(run.elapsed_s / 60, 1),
            "seed": options.seed,
            "device": asdict(run.device),
        },
        "metrics": {},
        "parent": None,
    }


def choose_validation(cases: Sequence[Case], options: TrainingOptions) -> tuple[list[Case], list[Case]]:
    """Cases to train on and cases to validate on. Test cases are in neither, unless they are chosen by name; what is
    held out never is.

    Raises:
        UserError: a name that no case has, or too many cases set apart.
    """
    unknown = set(options.held_out) - {case.name for case in cases}
    if unknown:
        raise UserError(f"There is no case {', '.join(sorted(unknown))} in the data set.", ExitCode.USAGE)
    cases = [case for case in cases if case.name not in options.held_out]
    if isinstance(options.validation, tuple):
        chosen = set(options.validation)
        unknown = chosen - {case.name for case in cases}
        if unknown:
            raise UserError(f"There is no case {', '.join(sorted(unknown))} in the data set.", ExitCode.USAGE)
        asked = [replace(case, split="validation" if case.name in chosen else "training") for case in cases]
        tests = {case.name for case in cases if case.split == "test"} - chosen
        return split_by_site([case for case in asked if case.name not in tests], 0, options.seed)
    if options.validation is not None:
        return split_by_site(cases, options.validation, options.seed)
    usable = [case for case in cases if case.split != "test"]
    most = len(usable) - len({case.site for case in usable})
    return split_by_site(cases, min(len(usable) // _N_VALIDATION_SHARE, most), options.seed)


def _list_problems(problems: Sequence[Problem]) -> str:
    n_cases = len({problem.case for problem in problems})
    cases = "A case has a problem" if n_cases == 1 else f"{n_cases} cases have problems"
    lines = [f"  {problem.case}: {problem.sentence}" for problem in problems]
    return "\n".join([f"{cases}; mend or remove what is listed:", *lines])
