"""The runs of one training: each to its end, and judged by cases that it has not learned from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.datasets.dataset import Case
from vnet_segmentation.device import Device, is_out_of_memory
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.evaluation.evaluate import evaluate_cases
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.models.bundle import save_bundle
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.processes import Processes
from vnet_segmentation.segmentation.segmenter import Segmenter
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.description import describe_model
from vnet_segmentation.training.identity import case_identities
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.recipe import Recipe
from vnet_segmentation.training.splits import Split
from vnet_segmentation.training.training_run import Progress, TrainingRun

_N_VALIDATIONS = 10
"""Of a fine-tuning run, whatever its length; ten iterations or more lie between them."""


@dataclass(frozen=True)
class Job:
    """What all runs of one training share."""

    options: TrainingOptions
    recipe: Recipe
    base: VNet | None
    base_description: dict[str, Any] | None
    voxel_hashes: dict[str, str]
    """Of the scans, by the cases' names; of the first process only, which alone writes a model."""
    n_runs: int
    prepared: dict[Case, TrainingCase]
    """All cases that a run learns from or is judged by."""
    synthetic: Sequence[TrainingCase]
    state_folder: Path
    device: Device
    processes: Processes
    say: Callable[[str], None]
    report: Callable[[Progress], None]
    should_stop: Callable[[], bool]
    seconds: list[float] = field(default_factory=list)
    """What each run that is done took, as far as that is known."""

    def whole(self, number: int, run: TrainingRun, progress: Progress) -> Progress:
        """The progress of a run as that of all runs. They are alike: what those that are done took tells of the others,
        too, and more than the first iterations of the next one."""
        n_known = len(self.seconds) + progress.fraction
        run_s = (sum(self.seconds) + run.elapsed_s) / n_known if n_known else None
        n_left = self.n_runs - number - progress.fraction
        return replace(
            progress,
            fraction=(number + progress.fraction) / self.n_runs,
            remaining_s=None if run_s is None else n_left * run_s,
        )


def train_run(job: Job, number: int, split: Split) -> TrainingRun:
    """One run of a training, to its end, from where it was stopped if it was.

    Args:
        number: of the run, from 0; the last one's model is kept, and those of the others, folds, are only judged.

    Raises:
        UserError: the training diverged, its checkpoint cannot be used, or the memory is too small
            (`ExitCode.OUT_OF_MEMORY`).
        Cancelled: the job should stop; a checkpoint is there.
    """
    options, n_runs, n_folds = job.options, job.n_runs, job.n_runs - 1
    is_final = number == n_folds
    learner = Learner(
        # The folds are judged by these cases; nothing may be chosen by them.
        recipe=job.recipe if is_final else replace(job.recipe, keeps_best=False, patience=0),
        cases=[job.prepared[case] for case in split.training],
        synthetic=job.synthetic,
        device=job.device,
        seed=options.seed,
        start=job.base,
        processes=job.processes,
        say=job.say,
    )
    minutes = options.minutes and options.minutes / n_runs
    run = TrainingRun(learner, [job.prepared[case] for case in split.validation], minutes)
    checkpoint = job.state_folder / ("checkpoint.safetensors" if is_final else f"fold-{number + 1}.safetensors")
    if checkpoint.exists():
        run.resume(checkpoint)
    if run.fraction >= 1:
        what = "training" if is_final else "run"
        job.say(f"This {what} has ended, at iteration {run.iteration}: nothing is left to learn")
    else:
        if run.iteration:
            job.say(f"Going on at iteration {run.iteration}")
        reason = f" {learner.device.reason}" if number == 0 else ""
        job.say(f"Training on {counted(len(split.training))}.{reason}")

    intervals: dict[str, Any] = {}
    if job.base is not None:
        # A short run would not come to its first validation, otherwise.
        intervals = {"validate_every": max(10, learner.recipe.iterations // _N_VALIDATIONS), "store_every_s": 60.0}
    try:
        finished = run.run(
            lambda progress: job.report(job.whole(number, run, progress)),
            lambda: run.save(checkpoint),
            job.should_stop,
            **intervals,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"The memory of {learner.device.name} is too small for this training. Close other programs, or choose a "
            "smaller width.",
            ExitCode.OUT_OF_MEMORY,
        ) from error
    if not finished:
        where = f"in run {number + 1} of {n_runs}, at" if n_folds else "at"
        raise Cancelled(f"Stopped {where} iteration {run.iteration}.")
    job.seconds.append(run.elapsed_s)
    return run


def judge_fold(job: Job, number: int, fold: Split) -> list[Row]:
    """Trains without the fold's validation cases and measures on them; a fold that is done is not done again.

    Raises:
        UserError: what is there is of another training; or see `train_run`.
        Cancelled: see `train_run` and `measure`.
    """
    results = job.state_folder / f"fold-{number + 1}.json"
    # What the rows depend on, and nothing else: folders may have moved, and the time may be another.
    identity = {
        "recipe": repr(job.recipe),
        "seed": job.options.seed,
        "parent": job.base_description and job.base_description["weights"]["sha256"],
        **case_identities(
            [job.prepared[case] for case in fold.training], [job.prepared[case] for case in fold.validation]
        ),
    }
    name = f"Run {number + 1} of {job.n_runs}"
    stored = _read_fold(results)
    if stored:
        known, rows, seconds = stored
        if known != identity:
            raise UserError(
                f"{results} belongs to another training. Resume with the same data and options, or choose another "
                "output."
            )
        job.say(f"{name} is done")
        job.seconds.extend(seconds)
        return rows
    job.say(f"{name}, without {counted(len(fold.validation))} that will judge it")
    run = train_run(job, number, fold)
    if not job.processes.is_first:
        return []
    rows = judge_run(job, run, fold, f"fold-{number + 1}")
    with atomic_path(results) as temporary:
        state = {"identity": identity, "rows": [asdict(row) for row in rows], "seconds": run.elapsed_s}
        temporary.write_text(json.dumps(state), "utf-8")
    # As large as four models, and nothing needs it any more.
    results.with_suffix(".safetensors").unlink(missing_ok=True)
    return rows


def judge_run(job: Job, run: TrainingRun, split: Split, name: str) -> list[Row]:
    """A run's model on the validation cases, by way of a bundle: as it would be used, 8-bit weights and all."""
    model = job.state_folder / name
    # Of what was interrupted here, or could not be removed because somebody had it open, on Windows.
    shutil.rmtree(model, ignore_errors=True)
    description = describe_model(name, run, split, job.options, job.base_description, job.voxel_hashes)
    save_bundle(model, run.best_network, description, quantise=True, overwrite=True)
    rows = measure(job, model, split.validation)
    shutil.rmtree(model, ignore_errors=True)
    return rows


def measure(job: Job, model: Path, cases: Sequence[Case]) -> list[Row]:
    """What a bundle's model makes of some cases.

    Raises:
        Cancelled: the job should stop.
    """
    segmenter = Segmenter(model, job.device)
    rows: list[Row] = []
    for case in cases:
        if job.should_stop():
            raise Cancelled("Stopped while the model was measured.")
        rows += evaluate_cases(segmenter, [case])
    return rows


def _read_fold(results: Path) -> tuple[Any, list[Row], list[float]] | None:
    """Identity and rows of a fold that is done, and what it took, if that is known; None where there is none or it is
    damaged, and so has to be made."""
    try:
        stored = json.loads(results.read_text("utf-8"))
        seconds = [float(stored["seconds"])] if "seconds" in stored else []
        return stored["identity"], [Row.from_dict(row) for row in stored["rows"]], seconds
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def counted(n_cases: int) -> str:
    """For a sentence."""
    return "1 case" if n_cases == 1 else f"{n_cases} cases"
