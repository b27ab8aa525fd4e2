"""From a data set to a model bundle: checks, cache, training, evaluation by the path that users take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import atomic_path, remove_leftovers
from vnet_segmentation.datasets.dataset import Case, find_cases
from vnet_segmentation.datasets.inspection import refuse_problems
from vnet_segmentation.device import Device, is_out_of_memory
from vnet_segmentation.errors import Cancelled, ExitCode, UserError, list_names
from vnet_segmentation.evaluation.evaluate import evaluate_cases
from vnet_segmentation.evaluation.improvement import MIN_CASES, Improvement
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.models.bundle import check_destination, save_bundle
from vnet_segmentation.models.library import known_cases
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.processes import Processes
from vnet_segmentation.segmentation.segmenter import Segmenter
from vnet_segmentation.training.cache import SyntheticCases, TrainingCase, load_cases
from vnet_segmentation.training.description import compare_rows, describe_metrics, describe_model
from vnet_segmentation.training.identity import case_identities, refuse_changed_cases
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.plan import (
    TrainingOptions,
    check_options,
    leave_out,
    load_base,
    make_recipe,
    plan_training,
)
from vnet_segmentation.training.recipe import Recipe
from vnet_segmentation.training.splits import Split
from vnet_segmentation.training.state import begun, claim, state_folder
from vnet_segmentation.training.training_run import Progress, TrainingRun

_LEAST_SHARE = 0.5
"""Of its iterations; a run that its time ended before has not shown what it can do."""
_N_VALIDATIONS = 10
"""Of a fine-tuning run, whatever its length; ten iterations or more lie between them."""


@dataclass(frozen=True)
class TrainingResult:
    """What became of a training."""

    before: list[Row]
    """The base model on the cases that judge; empty without a base or without such cases."""
    after: list[Row]
    """The new model on the same ones; in a cross-validation, models that have not seen the case."""
    improvement: Improvement | None
    """None where there is nothing to compare."""


@dataclass(frozen=True)
class _Job:
    """What all runs of one training share."""

    options: TrainingOptions
    recipe: Recipe
    base: VNet | None
    base_description: dict[str, Any] | None
    voxel_hashes: dict[str, str]
    """Of the scans, by the cases' names; of the first process only, which alone writes a model."""
    state_folder: Path
    device: Device
    processes: Processes
    say: Callable[[str], None]
    report: Callable[[Progress], None]
    should_stop: Callable[[], bool]


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
            checkpoint is damaged or another run's, another process trains it, or the training diverged.
        Cancelled: `should_stop` said so; once it had begun to train, a checkpoint is there.
    """
    processes = processes or Processes()
    check_options(options)
    state = state_folder(model)
    if processes.is_first and not _check_state(model, state, resume) and resume:
        say("There is nothing to go on with: a new training begins")
    with claim(state) if processes.is_first else nullcontext():
        if processes.is_first:
            # Half a checkpoint of a process that was killed; nobody else writes here now.
            remove_leftovers(state, older_than_s=0)
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
    cases = [replace(case, label=options.label) for case in leave_out(find_cases(data), options.held_out)]
    voxel_hashes: dict[str, str] = {}
    if processes.is_first:
        say(f"Checking {_counted(len(cases))}")
        voxel_hashes = refuse_problems(cases)
    plan = plan_training(cases, options)
    cache = cache or state / "cache"

    def prepare_next(name: str) -> None:
        if should_stop():
            raise Cancelled("Stopped before the training began.")
        say(f"Preparing {name}")

    if not processes.is_first:
        # The first process fills the cache.
        processes.wait()
    used = list(dict.fromkeys([*plan.final.training, *plan.final.validation]))
    prepared = dict(zip(used, load_cases(used, recipe.preprocessing, cache, prepare_next), strict=True))
    if processes.is_first:
        processes.wait()
    synthetic = SyntheticCases(recipe.n_synthetic_cases, recipe.preprocessing, cache)
    job = _Job(
        options, recipe, base, base_description, voxel_hashes, state, device, processes, say, report, should_stop
    )
    before, known = [], []
    if base_description and options.base and plan.judged and processes.is_first:
        say("Measuring the model to start from")
        known = known_cases(base_description, {case.name: voxel_hashes[case.name] for case in plan.judged})
        if known:
            # The cases that judge come fold by fold.
            names = list_names(sorted(known))
            say(f"It has learned from {names}, by voxels or name: on these, it and the new model look too good")
        before = _evaluate(job, options.base, plan.judged)
        if len(plan.judged) < MIN_CASES:
            say(f"Whether the new model is better cannot be told with fewer than {MIN_CASES} cases to judge it")
    after: list[Row] = []
    for number, fold in enumerate(plan.folds):
        say(f"Run {number + 1} of {plan.n_runs}, without {_counted(len(fold.validation))} that will judge it")
        after += _judge_fold(job, number, plan.n_runs, fold, prepared, synthetic)
    if plan.folds:
        # In the order of the folds nobody would find a case in the tables.
        before, after = (sorted(rows, key=lambda row: row.case) for rows in (before, after))
        say(f"Run {plan.n_runs} of {plan.n_runs}, with all cases: its model is the one that is kept")
    elif not plan.final.validation:
        say("No case is set apart: this training cannot tell how good its model is")
    run = _train(job, len(plan.folds), plan.n_runs, plan.final, prepared, synthetic)
    if not processes.is_first:
        return TrainingResult([], [], None)
    if plan.final.validation:
        say(f"Evaluating {_counted(len(plan.final.validation))} that the model has not learned from")
        after = _judge(job, run, plan.final, "candidate")
    warnings = []
    if run.iteration < _LEAST_SHARE * recipe.iterations and not run.has_settled:
        warnings.append(f"The time was enough for {run.iteration} of {recipe.iterations} iterations: give it more.")
    if known:
        warnings.append("The model before has learned from some of these, by voxels or name: both look too good.")
    if run.best.iteration == 0:
        warnings.append("No measured step was better than the model to start from: its weights were kept.")
    elif recipe.keeps_best and plan.final.validation:
        warnings.append("These cases also chose the new weights, which so look a little too good.")
    improvement = compare_rows(before, after, warnings)
    n_folds = len(plan.folds)
    description = describe_model(model.name, run, plan.final, options, base_description, voxel_hashes, n_folds)
    if run.best.iteration is not None:
        description["training"]["best_iteration"] = run.best.iteration
    if after:
        description["metrics"] = describe_metrics(options, before, after, improvement, n_folds)
    save_bundle(model, run.best_network, description, quantise=True, overwrite=True)
    return TrainingResult(before, after, improvement)


def _check_state(model: Path, state_folder: Path, resume: bool) -> bool:
    """Whether there is a training to go on with; refuses what must not be replaced."""
    file = begun(state_folder)
    if file and not resume:
        raise UserError(
            f"{model} exists already. Choose another folder, or remove it and {state_folder} first."
            if model.exists()
            else f"{file} is of an earlier training. Resume it, or remove {state_folder}.",
            ExitCode.CANNOT_WRITE,
        )
    # A run that was interrupted after its bundle was written, while it was evaluated, writes it again.
    check_destination(model, model.name, overwrite=file is not None)
    return file is not None


def _train(
    job: _Job,
    number: int,
    n_runs: int,
    split: Split,
    prepared: dict[Case, TrainingCase],
    synthetic: Sequence[TrainingCase],
) -> TrainingRun:
    """One run of a training, to its end."""
    options, n_folds = job.options, n_runs - 1
    is_final = number == n_folds
    learner = Learner(
        # The folds are judged by these cases; nothing may be chosen by them.
        recipe=job.recipe if is_final else replace(job.recipe, keeps_best=False, patience=0),
        cases=[prepared[case] for case in split.training],
        synthetic=synthetic,
        device=job.device,
        seed=options.seed,
        start=job.base,
        processes=job.processes,
        say=job.say,
    )
    minutes = options.minutes and options.minutes / n_runs
    run = TrainingRun(learner, [prepared[case] for case in split.validation], minutes)
    checkpoint = job.state_folder / ("checkpoint.safetensors" if is_final else f"fold-{number + 1}.safetensors")
    if checkpoint.exists():
        run.resume(checkpoint)
        job.say(f"Going on at iteration {run.iteration}")
    reason = f" {learner.device.reason}" if number == 0 else ""
    job.say(f"Training on {_counted(len(split.training))}.{reason}")

    def report(progress: Progress) -> None:
        remaining_s = progress.remaining_s
        if remaining_s is not None:
            remaining_s += (n_folds - number) * (run.elapsed_s + remaining_s)
        job.report(replace(progress, fraction=(number + progress.fraction) / n_runs, remaining_s=remaining_s))

    intervals: dict[str, Any] = {}
    if job.base is not None:
        # A short run would not come to its first validation, otherwise.
        intervals = {"validate_every": max(10, learner.recipe.iterations // _N_VALIDATIONS), "store_every_s": 60.0}
    try:
        finished = run.run(report, lambda: run.save(checkpoint), job.should_stop, **intervals)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"The memory of {learner.device.name} is too small for this training. Close other programs, or choose a "
            "smaller width.",
            ExitCode.OUT_OF_MEMORY,
        ) from error
    if not finished:
        raise Cancelled(f"Stopped at iteration {run.iteration}.")
    return run


def _judge_fold(
    job: _Job,
    number: int,
    n_runs: int,
    fold: Split,
    prepared: dict[Case, TrainingCase],
    synthetic: Sequence[TrainingCase],
) -> list[Row]:
    """Trains without the fold's validation cases and measures on them; a fold that is done is not done again."""
    results = job.state_folder / f"fold-{number + 1}.json"
    # What the rows depend on, and nothing else: folders may have moved, and the time may be another.
    identity = {
        "recipe": repr(job.recipe),
        "seed": job.options.seed,
        "parent": job.base_description and job.base_description["weights"]["sha256"],
        **case_identities([prepared[case] for case in fold.training], [prepared[case] for case in fold.validation]),
    }
    stored = _read_fold(results)
    if stored:
        known, rows = stored
        if known != identity:
            if isinstance(known, dict):
                refuse_changed_cases(known, identity)
            raise UserError(
                f"{results} belongs to another training. Resume with the same data and options, or choose another "
                "output."
            )
        return rows
    run = _train(job, number, n_runs, fold, prepared, synthetic)
    if not job.processes.is_first:
        return []
    rows = _judge(job, run, fold, f"fold-{number + 1}")
    with atomic_path(results) as temporary:
        temporary.write_text(json.dumps({"identity": identity, "rows": [asdict(row) for row in rows]}), "utf-8")
    # As large as four models, and nothing needs it any more.
    results.with_suffix(".safetensors").unlink(missing_ok=True)
    return rows


def _read_fold(results: Path) -> tuple[Any, list[Row]] | None:
    """Identity and rows of a fold that is done; None where there is none or it is damaged, and so has to be made."""
    try:
        stored = json.loads(results.read_text("utf-8"))
        return stored["identity"], [Row.from_dict(row) for row in stored["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _judge(job: _Job, run: TrainingRun, split: Split, name: str) -> list[Row]:
    """A run's model on the validation cases, by way of a bundle: as it would be used, 8-bit weights and all."""
    model = job.state_folder / name
    # Of what was interrupted here, or could not be removed because somebody had it open, on Windows.
    shutil.rmtree(model, ignore_errors=True)
    description = describe_model(name, run, split, job.options, job.base_description, job.voxel_hashes)
    save_bundle(model, run.best_network, description, quantise=True, overwrite=True)
    rows = _evaluate(job, model, split.validation)
    shutil.rmtree(model, ignore_errors=True)
    return rows


def _evaluate(job: _Job, model: Path, cases: Sequence[Case]) -> list[Row]:
    segmenter = Segmenter(model, job.device)
    rows: list[Row] = []
    for case in cases:
        if job.should_stop():
            raise Cancelled("Stopped while the model was measured.")
        rows += evaluate_cases(segmenter, [case])
    return rows


def _counted(n_cases: int) -> str:
    return "1 case" if n_cases == 1 else f"{n_cases} cases"
