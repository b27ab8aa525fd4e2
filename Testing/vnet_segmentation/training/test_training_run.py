"""A run learns, is the same for the same seed, keeps to its time, and goes on exactly where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_learners import FIELD, MODERN, PAPER, PLAIN, are_same, make_case, make_learner, make_start
from small_learners import state_of as state_of_learner
from torch import Tensor

from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.checkpoint import read_checkpoint, write_checkpoint
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.recipe import Recipe
from vnet_segmentation.training.training_run import Progress, TrainingRun

pytestmark = pytest.mark.usefixtures("one_thread")

DEEP_FIELD = Preprocessing(size=(48, 48, 48))
"""For bfloat16: on the CPU torch gets its weight gradients wrong where a feature map is smaller than the kernel."""


def make_run(
    recipe: Recipe = PLAIN,
    cls: type[TrainingRun] = TrainingRun,
    validation: Sequence[TrainingCase] | None = None,
    minutes: float | None = None,
    **changes: Any,
) -> Any:
    """A run of `make_learner`, which gets the other changes."""
    return cls(make_learner(recipe, **changes), [make_case(10)] if validation is None else validation, minutes)


def state_of(run: TrainingRun) -> dict[str, Tensor]:
    """Everything that a run learned and draws from."""
    best = {f"best.{name}": value.clone() for name, value in run.best_network.state_dict().items()}
    return state_of_learner(run.learner) | best


def go(run: TrainingRun, until: int | None = None, **options: Any) -> bool:
    """Runs to the end, or until it is stopped after an iteration, and checks that nothing is left to do."""
    return run.run(lambda progress: None, lambda: None, lambda: run.iteration == until, **options)


# The same run again


@pytest.mark.parametrize(
    ("recipe", "precision", "stop"),
    [
        pytest.param(MODERN, "float32", 4, id="modern"),
        pytest.param(MODERN, "float32", 1, id="modern-first-iteration"),
        # Between two reports and two validations, and where the crops have become large.
        pytest.param(MODERN, "float32", 7, id="modern-last-but-one"),
        pytest.param(PAPER, "float32", 4, id="paper"),
        pytest.param(replace(PLAIN, iterations=4), "bfloat16", 2, id="bfloat16"),
    ],
)
def test_a_resumed_run_is_bit_for_bit_the_one_that_would_have_been(
    tmp_path: Path, recipe: Recipe, precision: str, stop: int
) -> None:
    def new_run() -> TrainingRun:
        return make_run(
            replace(recipe, preprocessing=FIELD if precision == "float32" else DEEP_FIELD),
            width=2,
            device=Device("cpu", precision, ""),
        )

    intervals = {"report_every": 2, "validate_every": 3}
    whole = new_run()
    assert go(whole, **intervals)
    first = new_run()
    assert not go(first, until=stop, **intervals)
    first.save(tmp_path / "checkpoint")
    second = new_run()
    second.resume(tmp_path / "checkpoint")
    assert are_same(state_of(first), state_of(second))
    assert not are_same(state_of(first), state_of(whole))
    assert go(second, **intervals)
    assert are_same(state_of(second), state_of(whole))
    assert second.history == whole.history
    assert (second.iteration, second.fraction) == (recipe.iterations, 1)


def test_a_seed_gives_the_same_run_and_another_seed_another() -> None:
    runs = [make_run(replace(MODERN, iterations=3), seed=seed) for seed in (5, 5, 6)]
    for run in runs:
        # What the program around does with torch's own generator makes no difference.
        torch.rand(3)
        go(run, report_every=1)
    same, again, other = map(state_of, runs)
    assert are_same(same, again)
    assert runs[0].history == runs[1].history
    assert not torch.equal(same["model.output.0.0.weight"], other["model.output.0.0.weight"])
    assert runs[0].history != runs[2].history


@pytest.mark.parametrize("averaging_decay", [0.0, 0.9])
def test_validation_has_no_influence_on_what_is_learned(averaging_decay: float) -> None:
    # Batch normalisation computes otherwise while it is validated.
    recipe = replace(MODERN, iterations=3, averaging_decay=averaging_decay)
    often = make_run(recipe)
    never = make_run(recipe, validation=[])
    other = make_run(recipe, validation=[make_case(11), make_case(12)])
    go(often, validate_every=1)
    go(never)
    go(other, validate_every=2)
    assert are_same(state_of(often), state_of(never))
    assert are_same(state_of(often), state_of(other))


# Learning


def test_an_easy_problem_is_learned() -> None:
    recipe = replace(PLAIN, iterations=90, learning_rate=0.01, warm_up_iterations=5, averaging_decay=0.8)
    run = make_run(recipe, width=2, validation=[make_case(10), make_case(11)])
    before = run.validation_dice()
    reports: list[Progress] = []
    assert run.run(reports.append, lambda: None, report_every=10, validate_every=1000)
    # An untrained network marks about everything or nothing: the ball has 5 % of the field, Dice 0.1 or 0.
    assert before < 0.3
    assert reports[-1].validation_dice is not None
    assert reports[-1].validation_dice > 0.8
    assert reports[-1].loss < reports[0].loss / 2


# From a model


def validated(run: TrainingRun, dice: list[float], monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    """Runs with these validation Dice, one after another; the reports that have one."""
    answers = iter(dice)
    monkeypatch.setattr(TrainingRun, "validation_dice", lambda run: next(answers))
    reports: list[Progress] = []
    assert run.run(reports.append, lambda: None, validate_every=1)
    return [report for report in reports if report.validation_dice is not None]


def test_the_best_validation_is_kept_and_a_run_without_gain_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(replace(PLAIN, iterations=20, schedule="steps", keeps_best=True, patience=3), start=make_start())
    weights = []
    step = TrainingRun.step

    def record(run: TrainingRun) -> float:
        loss = step(run)
        weights.append({name: value.clone() for name, value in run.learner.network.state_dict().items()})
        return loss

    monkeypatch.setattr(TrainingRun, "step", record)
    # The first is of the start. A gain of 0.0001 is none.
    reports = validated(run, [0.5, 0.6, 0.7, 0.6, 0.7001, 0.2], monkeypatch)
    assert [report.iteration for report in reports] == [0, 1, 2, 3, 4, 5]
    assert (reports[0].loss, reports[0].fraction) == (None, 0.0)
    assert reports[-1].fraction == run.fraction == 1
    assert (run.best.iteration, run.has_settled) == (2, True)
    assert all(torch.equal(value, weights[1][name]) for name, value in run.best_network.state_dict().items())


@pytest.mark.parametrize(("gain_at", "last"), [(None, 6), (3, 6), (5, 7), (6, 8)])
def test_a_cosine_run_does_not_end_before_its_last_quarter(
    gain_at: int | None, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(replace(PLAIN, iterations=8, keeps_best=True, patience=2), start=make_start())
    dice = [0.6 if iteration == gain_at else 0.5 for iteration in range(9)]
    # Three quarters of 8 iterations are 6.
    assert validated(run, dice, monkeypatch)[-1].iteration == last
    assert run.best.iteration == (gain_at or 0)


def test_a_run_that_only_loses_keeps_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start = make_start()
    run = make_run(replace(PLAIN, iterations=3, keeps_best=True), start=start)
    validated(run, [0.8, 0.5, 0.5, 0.5], monkeypatch)
    assert run.best.iteration == 0
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in run.best_network.state_dict().items())


def test_the_best_weights_outlive_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(PLAIN, iterations=6, keeps_best=True, patience=4)
    first = make_run(recipe, start=make_start())
    answers = iter([0.5, 0.9, 0.4, 0.4])
    monkeypatch.setattr(TrainingRun, "validation_dice", lambda run: next(answers))
    go(first, until=3, validate_every=1)
    first.save(tmp_path / "checkpoint")
    second = make_run(recipe, start=make_start())
    second.resume(tmp_path / "checkpoint")
    assert are_same(state_of(first), state_of(second))
    reports = validated(second, [0.4, 0.4], monkeypatch)
    assert [report.iteration for report in reports] == [4, 5]
    assert second.best.iteration == 1
    second.save(tmp_path / "checkpoint")
    third = make_run(recipe, start=make_start())
    third.resume(tmp_path / "checkpoint")
    assert (third.best.iteration, third.has_settled, third.fraction) == (1, True, 1)
    other = make_run(recipe, start=make_start(8))
    with pytest.raises(UserError, match="initial weights"):
        other.resume(tmp_path / "checkpoint")


# Memory


def test_a_run_that_stepped_down_does_not_climb_again_when_it_is_resumed(tmp_path: Path) -> None:
    run, resumed = make_run(), make_run()
    run.learner.model.recomputes = run.learner.only_small_crops = True
    run.save(tmp_path / "checkpoint")
    resumed.resume(tmp_path / "checkpoint")
    assert (resumed.learner.model.recomputes, resumed.learner.only_small_crops) == (True, True)


def test_a_validation_without_enough_memory_looks_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = VNet.forward

    def fail_on_the_whole_field(network: VNet, image: Tensor) -> Tensor:
        if image.shape[-1] == 64 and not network.training:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(network, image)

    said: list[str] = []
    run = make_run(replace(PLAIN, iterations=2, preprocessing=Preprocessing(size=(64, 64, 16))), say=said.append)
    monkeypatch.setattr(VNet, "forward", fail_on_the_whole_field)
    assert go(run, validate_every=1)
    assert [0 <= report["validation_dice"] <= 1 for report in run.history] == [True, True]
    assert "in tiles" in said[0]


# Time, reports and checkpoints, with iterations that take as long as a test says


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class ScriptedRun(TrainingRun):
    """Learns nothing; the loss of the n-th iteration is n."""

    clock: Clock
    step_s = 10.0
    validation_s = 0.0

    def step(self) -> float:
        self.clock.now += self.step_s
        self.iteration += 1
        return float(self.iteration)

    def validation_dice(self) -> float:
        self.clock.now += self.validation_s
        return self.iteration / 100


class Script:
    """Makes scripted runs and keeps what they tell."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.reports: list[Progress] = []
        self.stored: list[int] = []

    def new_run(self, iterations: int = 10, step_s: float = 10.0, validation_s: float = 0.0, **settings: Any) -> Any:
        run = make_run(replace(PAPER, iterations=iterations), ScriptedRun, **settings)
        run.clock, run.step_s, run.validation_s = self.clock, step_s, validation_s
        return run

    def go(self, run: TrainingRun, until: int | None = None, store_s: float = 0.0, **intervals: Any) -> bool:
        def store() -> None:
            self.clock.now += store_s
            self.stored.append(run.iteration)

        return run.run(self.reports.append, store, lambda: run.iteration == until, **intervals)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    clock = Clock()
    monkeypatch.setattr("vnet_segmentation.training.training_run.time", SimpleNamespace(monotonic=clock.monotonic))
    return Script(clock)


def test_reports_have_mean_loss_dice_and_fraction(script: Script) -> None:
    assert script.go(script.new_run(), report_every=4, validate_every=5)
    assert script.reports == [
        Progress(1, 0.1, 1.0, None),
        Progress(4, 0.4, 3.0, None),  # (2 + 3 + 4) / 3
        Progress(5, 0.5, 5.0, 0.05),
        Progress(8, 0.8, 7.0, None),  # (6 + 7 + 8) / 3
        Progress(10, 1.0, 9.5, 0.10),  # (9 + 10) / 2
    ]


def test_the_history_is_what_was_reported(script: Script) -> None:
    run = script.new_run(iterations=3)
    script.go(run, validate_every=2)
    assert run.history == [
        {"iteration": 1, "loss": 1.0},
        {"iteration": 2, "loss": 2.0, "validation_dice": 0.02},
        {"iteration": 3, "loss": 3.0, "validation_dice": 0.03},
    ]


def test_without_validation_cases_there_is_no_dice(script: Script) -> None:
    run = script.new_run(iterations=2, validation=[])
    script.go(run, validate_every=1)
    assert [progress.validation_dice for progress in script.reports] == [None, None]


def test_a_limit_in_minutes_ends_the_run(script: Script) -> None:
    run = script.new_run(iterations=1000, step_s=7.0, minutes=1)
    assert script.go(run)
    # 8 iterations take 56 s, 9 take 63 s.
    assert run.iteration == 9
    last = script.reports[-1]
    assert (last.iteration, last.fraction) == (9, 1.0)
    assert last.validation_dice == 0.09
    assert script.stored[-1] == 9


def test_the_iterations_end_a_run_before_its_limit(script: Script) -> None:
    run = script.new_run(iterations=5, minutes=60)
    assert script.go(run)
    assert run.iteration == 5


def test_the_fraction_of_a_run_with_a_limit_is_that_of_its_time(script: Script) -> None:
    run = script.new_run(iterations=1000, step_s=6.0, minutes=1)
    script.go(run, report_every=4)
    # After 4 iterations 24 s of 60 are over.
    assert script.reports[1].fraction == pytest.approx(0.4)


def test_time_for_validation_and_storing_counts(script: Script) -> None:
    run = script.new_run(iterations=1000, step_s=7.0, validation_s=10.0, minutes=1)
    script.go(run, store_s=5.0, validate_every=2)
    # 7, 14 + 5 + 10 + 5 = 34, 41, 48 + 20 = 68, 75: the fifth iteration is the first that ends after 60 s.
    assert run.iteration == 5
    # The last validation, and what was stored before it, is in the state that is stored.
    assert run.elapsed_s == 90


@pytest.mark.parametrize(
    ("step_s", "stored"),
    [
        # Validation never comes but at the end.
        (100.0, [3, 6, 9, 10]),
        (400.0, list(range(1, 11))),
        (10.0, [10]),
    ],
)
def test_a_checkpoint_is_at_most_five_minutes_and_an_iteration_old(
    script: Script, step_s: float, stored: list[int]
) -> None:
    script.go(script.new_run(step_s=step_s, validation=[]))
    assert script.stored == stored


def test_a_checkpoint_precedes_and_follows_each_validation(script: Script) -> None:
    script.go(script.new_run(), validate_every=4)
    assert script.stored == [4, 4, 8, 8, 10, 10]


@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_validation_in_which_a_run_was_killed_is_made_up_for(script: Script, tmp_path: Path, killed_at: int) -> None:
    undisturbed = script.new_run(iterations=6)
    script.go(undisturbed, validate_every=2)
    killed, checkpoint = script.new_run(iterations=6), tmp_path / "checkpoint.safetensors"

    def validation_dice() -> float:
        if killed.iteration == killed_at:
            raise KeyboardInterrupt
        return ScriptedRun.validation_dice(killed)

    killed.validation_dice = validation_dice
    with pytest.raises(KeyboardInterrupt):
        killed.run(lambda progress: None, lambda: killed.save(checkpoint), validate_every=2)
    resumed = script.new_run(iterations=6)
    resumed.resume(checkpoint)
    assert script.go(resumed, validate_every=2)
    assert resumed.history == undisturbed.history


def test_a_run_that_was_killed_in_the_validation_that_settles_it_learns_no_more(script: Script, tmp_path: Path) -> None:
    def new_run() -> Any:
        run = script.new_run(iterations=8)
        run.learner.recipe = replace(run.learner.recipe, patience=1)
        run.validation_dice = lambda: 0.5
        return run

    undisturbed, resumed = new_run(), new_run()
    checkpoints: list[Path] = []

    def store() -> None:
        checkpoints.append(tmp_path / f"checkpoint-{len(checkpoints)}")
        undisturbed.save(checkpoints[-1])

    assert undisturbed.run(lambda progress: None, store, validate_every=2)
    # What a run that is killed in its last validation leaves.
    resumed.resume(checkpoints[-2])
    assert script.go(resumed, validate_every=2)
    assert (resumed.iteration, resumed.history) == (4, undisturbed.history)


def test_the_end_is_stored_before_it_is_reported(script: Script) -> None:
    run = script.new_run(iterations=3)

    def report(progress: Progress) -> None:
        if progress.iteration == 3:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run.run(report, lambda: script.stored.append(run.iteration))
    assert script.stored == [3, 3]


def test_a_stopped_run_stores_where_it_is(script: Script) -> None:
    run = script.new_run()
    assert not script.go(run, until=3)
    assert run.iteration == 3
    assert script.stored == [3]
    assert run.fraction == pytest.approx(0.3)


def test_a_request_to_stop_at_the_end_changes_nothing(script: Script) -> None:
    run = script.new_run(iterations=3)
    assert script.go(run, until=3)
    assert script.stored == [3, 3]


def test_a_pause_does_not_count(script: Script, tmp_path: Path) -> None:
    first = script.new_run(iterations=1000, minutes=1)
    script.go(first, until=4)
    first.save(tmp_path / "checkpoint")
    script.clock.now += 3600
    second = script.new_run(iterations=1000, minutes=1)
    second.resume(tmp_path / "checkpoint")
    assert second.elapsed_s == 40
    assert script.go(second)
    # 40 s before the pause and 20 s after it.
    assert second.iteration == 6
    # Another limit is no other run.
    longer = script.new_run(iterations=1000, minutes=2)
    second.save(tmp_path / "checkpoint")
    longer.resume(tmp_path / "checkpoint")
    assert script.go(longer)
    assert longer.iteration == 12


def test_a_resumed_run_says_at_once_how_far_it_is(script: Script, tmp_path: Path) -> None:
    first = script.new_run(iterations=100)
    script.go(first, until=25)
    first.save(tmp_path / "checkpoint")
    second = script.new_run(iterations=100)
    second.resume(tmp_path / "checkpoint")
    script.reports.clear()
    script.go(second, until=26)
    assert script.reports == [Progress(25, 0.25, None, None)]


def test_a_finished_run_stays_finished(script: Script, tmp_path: Path) -> None:
    run = script.new_run(iterations=2)
    script.go(run)
    run.save(tmp_path / "checkpoint")
    again = script.new_run(iterations=2)
    again.resume(tmp_path / "checkpoint")
    script.reports.clear()
    assert script.go(again)
    assert (again.iteration, script.reports) == (2, [])


# Refusals


@pytest.mark.parametrize("lacking", ["is_unmeasured", "identity"])
def test_a_checkpoint_of_another_version_is_a_sentence(tmp_path: Path, lacking: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    make_run().save(checkpoint)
    tensors, state = read_checkpoint(checkpoint)
    del state[lacking]
    write_checkpoint(checkpoint, tensors, state)
    with pytest.raises(UserError, match="was made by another version of this program"):
        make_run().resume(checkpoint)


@pytest.mark.parametrize(
    ("difference", "changes"),
    [
        ("recipe", {"width": 2}),
        ("recipe", {"recipe": replace(PAPER, learning_rate=2e-4)}),
        ("recipe", {"recipe": replace(PAPER, deformation=DeformationSettings(0.5, 14.0))}),
        ("recipe", {"recipe": replace(PAPER, preprocessing=replace(FIELD, clip_percentiles=(1.0, 99.0)))}),
        ("training cases", {"cases": [make_case(0), make_case(1), make_case(3)]}),
        ("training cases", {"cases": [make_case(0), make_case(1)]}),
        ("training cases", {"cases": [make_case(0), replace(make_case(1), label=2), make_case(2)]}),
        ("training cases", {"cases": [make_case(0), replace(make_case(1), source="corrected"), make_case(2)]}),
        ("validation cases", {"validation": []}),
        ("validation cases", {"validation": [make_case(0)]}),
        ("seed", {"seed": 1}),
        ("recipe, seed", {"width": 2, "seed": 1}),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, difference: str, changes: dict[str, Any]) -> None:
    make_run(PAPER).save(tmp_path / "checkpoint")
    other = make_run(**{"recipe": PAPER} | changes)
    before = state_of(other)
    with pytest.raises(UserError, match=f"belongs to another run: {difference} differ") as raised:
        other.resume(tmp_path / "checkpoint")
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    assert are_same(before, state_of(other))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    make_run(PAPER).save(path)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    run = make_run(PAPER)
    before = state_of(run)
    with pytest.raises(UserError, match="damaged"):
        run.resume(path)
    assert are_same(before, state_of(run))


def test_divergence_is_told_and_not_stored() -> None:
    run = make_run(replace(PAPER, learning_rate=1e20, iterations=100))
    stored: list[dict[str, Tensor]] = []
    with pytest.raises(UserError, match=r"diverged at iteration \d+") as raised:
        run.run(lambda progress: None, lambda: stored.append(state_of(run)), validate_every=1, store_every_s=0)
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    assert all(value.isfinite().all() for state in stored for value in state.values())
