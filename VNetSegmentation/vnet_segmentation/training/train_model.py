"""From a data set to a model bundle: checks, cache, training, evaluation by the path that users take."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import atomic_path, remove_leftovers
from vnet_segmentation.datasets.dataset import find_cases, leave_out
from vnet_segmentation.datasets.inspection import refuse_problems
from vnet_segmentation.device import Device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError, list_names
from vnet_segmentation.evaluation.improvement import MIN_CASES, Improvement
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.models.bundle import check_destination, read_description, save_bundle
from vnet_segmentation.models.library import known_cases
from vnet_segmentation.models.training_state import begun, claim, state_folder
from vnet_segmentation.processes import Processes
from vnet_segmentation.training.cache import SyntheticCases, files_digest, load_cases
from vnet_segmentation.training.description import compare_rows, describe_metrics, describe_model
from vnet_segmentation.training.identity import refuse_other_cases, refuse_other_options, stored_sources
from vnet_segmentation.training.job import Job, counted, judge_fold, judge_run, measure, train_run
from vnet_segmentation.training.options import (
    TrainingOptions,
    check_options,
    load_base,
    make_recipe,
    plan_training,
)
from vnet_segmentation.training.recipe import Recipe
from vnet_segmentation.training.training_run import Progress
from vnet_segmentation.user_folders import check_model_name

_CACHE_NAME, _OPTIONS_NAME = "cache", "options.json"
_OTHERWISE = "begin a new training"
_LEAST_SHARE = 0.5
"""Of its iterations; a run that its time ended before has not shown what it can do."""


@dataclass(frozen=True)
class TrainingResult:
    """What became of a training."""

    before: list[Row]
    """The base model on the cases that judge; empty without a base or without such cases."""
    after: list[Row]
    """The new model on the same ones; in a cross-validation, models that have not seen the case."""
    improvement: Improvement | None
    """None where there is nothing to compare."""


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
    processes: Processes | None = None,
) -> TrainingResult:
    """Trains a model, from scratch or from a base model, and writes its bundle.

    While it trains, the state is kept in the folder `<model>.training`, from which `resume` goes on; it is not part
    of the bundle and can be deleted afterwards. The model holds no case names (unless `options.names_cases`), paths
    or headers, but the scans' `scans.voxel_hash`.

    Args:
        data: see `dataset.find_cases`.
        model: folder of the bundle to write; must not exist, unless a finished run is resumed to write it anew.
        cache: folder of prepared cases; None: in `<model>.training`.
        resume: go on from the checkpoint, if there is one.
        say: told what happens, a sentence at a time.
        report: see `TrainingRun.run`; with several runs, fraction and time are those of all.
        should_stop: asked before each case is prepared and after each iteration.
        processes: see `processes.join_processes`; only the first writes, reports and returns rows.

    Returns:
        Metrics on the cases' own grid, measured through the written bundle, before and after.

    Raises:
        UserError: the options or the data have problems (all of the data's are listed), the output exists, the
            checkpoint is damaged, another run's or of other data, another process trains it, or the training diverged.
        Cancelled: `should_stop` said so; once it had begun to train, a checkpoint is there.
    """
    processes = processes or Processes()
    check_options(options)
    # A path like "." has no name, and so no folder beside it.
    check_model_name(model.name or str(model))
    state = state_folder(model)
    if processes.is_first and not _check_state(model, state, resume) and resume:
        say("There is nothing to go on with: a new training begins")
    with claim(state) if processes.is_first else nullcontext():
        if processes.is_first:
            # Half a file of a process that was killed; nobody else writes here now.
            for folder in (state, state / _CACHE_NAME):
                remove_leftovers(folder, older_than_s=0)
        return _train_model(data, model, options, device, cache, say, report, should_stop, processes)


def _train_model(
    data: Path,
    model: Path,
    options: TrainingOptions,
    device: Device,
    cache: Path | None,
    say: Callable[[str], None],
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    processes: Processes,
) -> TrainingResult:
    """`train_model`, in a state folder that is this process's own."""
    options, base, base_description = load_base(options)
    recipe = make_recipe(options, base, processes.count)
    options = replace(options, width=recipe.width)
    state = state_folder(model)
    chosen = _choices(options, recipe, base_description)
    has_begun = begun(state) is not None
    if processes.is_first and has_begun:
        _refuse_other_choices(state / _OPTIONS_NAME, chosen)
    cases = [replace(case, label=options.label) for case in leave_out(find_cases(data), options.held_out)]
    # Before they are read: a slip in a name is answered at once.
    plan = plan_training(cases, options)
    voxel_hashes: dict[str, str] = {}
    if processes.is_first:
        say(f"Checking {counted(len(cases))}")
        voxel_hashes = refuse_problems(cases)
    used = list(dict.fromkeys([*plan.final.training, *plan.final.validation]))
    stored = stored_sources(state) if processes.is_first else {}
    if stored:
        # Before anything is prepared, and by their names.
        refuse_other_cases("training", stored, {case.name: files_digest(case) for case in used}, _OTHERWISE)
    if processes.is_first and not has_begun:
        with atomic_path(state / _OPTIONS_NAME) as temporary:
            temporary.write_text(json.dumps(chosen, indent=2) + "\n", "utf-8")
    cache = cache or state / _CACHE_NAME

    def prepare_next(name: str) -> None:
        if should_stop():
            raise Cancelled("Stopped before the training began.")
        say(f"Preparing {name}")

    if not processes.is_first:
        # The first process fills the cache.
        processes.wait()
    prepared = dict(zip(used, load_cases(used, recipe.preprocessing, cache, prepare_next), strict=True))
    if processes.is_first:
        processes.wait()
    job = Job(
        options=options,
        recipe=recipe,
        base=base,
        base_description=base_description,
        voxel_hashes=voxel_hashes,
        n_runs=plan.n_runs,
        prepared=prepared,
        synthetic=SyntheticCases(recipe.n_synthetic_cases, recipe.preprocessing, cache),
        state_folder=state,
        device=device,
        processes=processes,
        say=say,
        report=report,
        should_stop=should_stop,
    )
    before, known = [], []
    if base_description and options.base and plan.judged and processes.is_first:
        say("Measuring the model to start from")
        known = known_cases(base_description, {case.name: voxel_hashes[case.name] for case in plan.judged})
        if known:
            # The cases that judge come fold by fold.
            names = list_names(sorted(known))
            say(f"It has learned from {names}, by voxels or name: on these, it and the new model look too good")
        before = measure(job, options.base, plan.judged)
        if len(plan.judged) < MIN_CASES:
            say(f"Whether the new model is better cannot be told with fewer than {MIN_CASES} cases to judge it")
    after: list[Row] = []
    for number, fold in enumerate(plan.folds):
        after += judge_fold(job, number, fold)
    if plan.folds:
        # In the order of the folds nobody would find a case in the tables.
        before, after = (sorted(rows, key=lambda row: row.case) for rows in (before, after))
        say(f"Run {plan.n_runs} of {plan.n_runs}, with all cases: its model is the one that is kept")
    elif not plan.final.validation:
        say("No case is set apart: this training cannot tell how good its model is")
    run = train_run(job, len(plan.folds), plan.final)
    if not processes.is_first:
        return TrainingResult([], [], None)
    if plan.final.validation:
        say(f"Evaluating {counted(len(plan.final.validation))} that the model has not learned from")
        after = judge_run(job, run, plan.final, "candidate")
    warnings = []
    if run.iteration < _LEAST_SHARE * recipe.iterations and not run.has_settled:
        warnings.append(f"The time was enough for {run.iteration} of {recipe.iterations} iterations: give it more.")
    if known:
        share = "all" if len(known) == len(plan.judged) else "some"
        warnings.append(f"The model before has learned from {share} of these, by voxels or name: both look too good.")
    if run.best.iteration == 0:
        warnings.append("No measured step was better than the model to start from: its weights were kept.")
    elif recipe.keeps_best and plan.final.validation:
        warnings.append("These cases also chose the new weights, which so look a little too good.")
    improvement = compare_rows(before, after, warnings)
    n_folds = len(plan.folds)
    description = describe_model(model.name, run, plan.final, options, base_description, voxel_hashes, n_folds)
    _keep_words(description, model, options)
    if run.best.iteration is not None:
        description["training"]["best_iteration"] = run.best.iteration
    if after:
        description["metrics"] = describe_metrics(options, before, after, improvement, n_folds)
    save_bundle(model, run.best_network, description, quantise=True, overwrite=True)
    return TrainingResult(before, after, improvement)


def _keep_words(description: dict[str, Any], model: Path, options: TrainingOptions) -> None:
    """A model that is written again keeps its title and the terms of its data, unless others are given now."""
    with suppress(UserError):
        earlier = read_description(model)
        if not options.title:
            description["title"] = earlier["title"]
        if not options.data_terms:
            description["training"]["data_terms"] = earlier["training"].get("data_terms", "")


def _choices(options: TrainingOptions, recipe: Recipe, base_description: dict[str, Any] | None) -> dict[str, Any]:
    """What is to be the same when a training goes on, in the words of its options, as JSON has them."""
    validation = options.validation
    return {
        "base": base_description and base_description["weights"]["sha256"][:12],
        "preset": options.preset_name,
        "layout": recipe.layout,
        "width": recipe.width,
        "bias_correction": recipe.preprocessing.bias_correction,
        # In whatever order they were given, the same cases are set apart.
        "validation": sorted(validation) if isinstance(validation, tuple) else validation,
        "label": options.label,
        "iterations": recipe.iterations,
        "batch_size": recipe.batch_size,
        "deformation_strength": options.deformation_strength,
        "histogram_matching": options.histogram_matching,
        "seed": options.seed,
    }


def _refuse_other_choices(file: Path, chosen: dict[str, Any]) -> None:
    """Raises `UserError` if a training began with others; where that is not known, its checkpoint tells later."""
    with suppress(OSError, ValueError):
        refuse_other_options("training", json.loads(file.read_text("utf-8")), chosen, _OTHERWISE)


def _check_state(model: Path, state_folder: Path, resume: bool) -> bool:
    """Whether there is a training to go on with; refuses what must not be replaced."""
    file = begun(state_folder)
    if file and not resume:
        if model.exists():
            sentence = f"{model} exists already. Choose another folder, or remove it and {state_folder} first."
            raise UserError(sentence, ExitCode.CANNOT_WRITE)
        sentence = f"{file} is of an earlier training. Resume it, or remove {state_folder}."
        raise UserError(sentence, ExitCode.CANNOT_WRITE, "resume")
    # A run that was interrupted after its bundle was written, while it was evaluated, writes it again.
    check_destination(model, model.name, overwrite=file is not None)
    return file is not None
