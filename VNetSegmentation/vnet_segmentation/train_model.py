"""From a data set to a model bundle: checks, cache, training, evaluation by the path that users take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.bundle import check_destination, save_bundle
from vnet_segmentation.dataset import Case, Problem, check_cases, find_cases, split_by_site
from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.evaluation import Row, evaluate_cases, summarise
from vnet_segmentation.preprocessing import Preprocessing
from vnet_segmentation.recipe import load_recipe
from vnet_segmentation.segmenter import Segmenter
from vnet_segmentation.training import Progress, TrainingRun
from vnet_segmentation.training_cache import load_cases, make_synthetic_cases

_N_SYNTHETIC_CASES = 16
_N_VALIDATION_SHARE = 5
"""One case in so many is set apart for validation unless the user says otherwise."""


@dataclass(frozen=True)
class TrainingOptions:
    """What the user chooses."""

    preset: str = "default"
    layout: str = "paper"
    width: int = 8
    validation: int | tuple[str, ...] | None = None
    """How many cases to set apart, or which; None: one in five. Never more than leaves one case per site."""
    iterations: int | None = None
    """None: as many as the preset says."""
    minutes: float | None = None
    seed: int = 0
    bias_correction: bool = False
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
        model: folder of the bundle to write; must not exist.
        cache: folder of prepared cases; None: in `<model>.training`.
        say: told what happens, a sentence at a time.

    Returns:
        Validation metrics on the cases' own grid, measured through the written bundle; empty without validation.

    Raises:
        UserError: the data have problems (all are listed), the output exists, or the run was stopped
            (`ExitCode.CANCELLED`; a checkpoint is there).
    """
    check_destination(model, model.name)
    state_folder = model.with_name(model.name + ".training")
    checkpoint = state_folder / "checkpoint.safetensors"
    if checkpoint.exists() and not resume:
        raise UserError(
            f"{state_folder} holds an unfinished training. Add --resume to go on, or delete it.", ExitCode.CANNOT_WRITE
        )
    cases = find_cases(data)
    say(f"Checking {len(cases)} cases")
    problems = check_cases(cases)
    if problems:
        raise UserError(_list_problems(problems))
    training, validation = choose_validation(cases, options)
    recipe = load_recipe(options.preset)
    if options.iterations is not None:
        recipe = replace(recipe, iterations=options.iterations)
    preprocessing = Preprocessing(bias_correction=options.bias_correction)
    cache = cache or state_folder / "cache"

    def say_preparing(name: str) -> None:
        say(f"Preparing {name}")

    run = TrainingRun(
        network={"layout": options.layout, "width": options.width},
        recipe=recipe,
        preprocessing=preprocessing,
        cases=load_cases(training, preprocessing, cache, say_preparing),
        validation=load_cases(validation, preprocessing, cache, say_preparing),
        synthetic=make_synthetic_cases(_N_SYNTHETIC_CASES, preprocessing) if recipe.synthetic_probability else [],
        device=device,
        seed=options.seed,
        minutes=options.minutes,
    )
    if resume and checkpoint.exists():
        run.resume(checkpoint)
        say(f"Going on at iteration {run.iteration}")
    say(f"Training on {len(training)} cases, {len(validation)} set apart for validation. {device.reason}")
    finished = run.run(report, lambda: run.save(checkpoint), should_stop)
    if not finished:
        raise UserError(
            f"Stopped at iteration {run.iteration}. Add --resume to the same command to go on.", ExitCode.CANCELLED
        )
    return export_model(run, model, options, training, validation, device, say)


def export_model(
    run: TrainingRun,
    model: Path,
    options: TrainingOptions,
    training: Sequence[Case],
    validation: Sequence[Case],
    device: Device,
    say: Callable[[str], None],
) -> list[Row]:
    """Writes the bundle of a finished run, and measures it as written, 8-bit weights and all."""
    description = describe_model(run, model.name, options, training, validation)
    save_bundle(model, run.best_network, description, quantise=True)
    if not validation:
        return []
    say(f"Evaluating {len(validation)} cases that the model has not seen")
    rows = list(evaluate_cases(Segmenter(model, device), validation))
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
    """Cases to train on and cases to validate on.

    Raises:
        UserError: a name that no case has, or too many cases set apart.
    """
    if isinstance(options.validation, tuple):
        chosen = set(options.validation)
        unknown = chosen - {case.name for case in cases}
        if unknown:
            raise UserError(f"There is no case {', '.join(sorted(unknown))} in the data set.", ExitCode.USAGE)
        cases = [replace(case, split="validation" if case.name in chosen else "training") for case in cases]
        return split_by_site(cases, 0, options.seed)
    n_sites = len({case.site for case in cases})
    share = min(len(cases) // _N_VALIDATION_SHARE, len(cases) - n_sites)
    return split_by_site(cases, share if options.validation is None else options.validation, options.seed)


def _list_problems(problems: Sequence[Problem]) -> str:
    lines = [f"  {problem.case}: {problem.sentence}" for problem in problems]
    return "\n".join([f"{len(problems)} problems in the data; mend or remove these cases:", *lines])
