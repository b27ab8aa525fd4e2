"""A training from its first iteration to its last: when it validates, stores, reports and ends."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vnet_segmentation.errors import UserError
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.segmentation.inference import Predictor
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.checkpoint import read_checkpoint, write_checkpoint
from vnet_segmentation.training.identity import case_identities, weights_digest
from vnet_segmentation.training.learner import Learner, tensors_named
from vnet_segmentation.training.validation import Best, mean_dice

_LAST_PART = 0.75
"""Of a run with a cosine schedule: its rate has fallen to a seventh."""


@dataclass(frozen=True)
class Progress:
    """What a run tells after an iteration."""

    iteration: int
    fraction: float
    """Part of the run that is done, 0 to 1."""
    loss: float | None
    """Mean since the last report; None before the first iteration, and where a resumed run begins."""
    validation_dice: float | None
    """Mean over the validation cases, on the network's grid; None where it was not measured."""
    remaining_s: float | None = None
    """Of all runs of a training, which alone knows it; None before the first iteration."""


@dataclass
class TrainingRun:
    """The iterations of a learner, which can be stored and resumed between any two.

    On the same CPU, with as many threads, a resumed run is, bit for bit, the one that would have been, also in what
    memory it takes. With a limit in minutes the learning rate follows the clock: such runs differ.

    A validation, which needs the whole field, has a ladder of its own where memory runs out (`inference.ladder`).

    Args:
        learner: has not learned yet.
        validation: cases that it does not learn from.
        minutes: the run ends after this time, all its sessions together, if the recipe's iterations have not ended it
            before.
    """

    learner: Learner
    validation: Sequence[TrainingCase]
    minutes: float | None = None
    iteration: int = field(default=0, init=False)
    elapsed_s: float = field(default=0.0, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)
    """Iteration, loss and, where it was measured, validation Dice of each report."""
    best: Best = field(default_factory=Best, init=False)
    """Has weights where the recipe keeps the best."""
    has_settled: bool = field(default=False, init=False)
    """Whether the run ended because the validation Dice had not risen for as long as the recipe waits for it. With a
    cosine schedule not before its last quarter: while the rate is high, the Dice says little of what it will be."""

    def __post_init__(self) -> None:
        self._losses: list[float] = []
        """Since the last report."""
        self._is_unmeasured = False

    @property
    def fraction(self) -> float:
        """Part of the run that is done: of its iterations, or of its time where that is further."""
        if self.has_settled:
            return 1.0
        of_time = self.elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.iteration / self.learner.recipe.iterations, of_time))

    @property
    def best_network(self) -> VNet:
        """The model to keep: the one with the best validation where the recipe keeps it, else the last one."""
        if not self.best.weights:
            return self.learner.network
        network = copy.deepcopy(self.learner.network)
        network.load_state_dict(self.best.weights)
        return network

    def run(
        self,
        report: Callable[[Progress], None],
        store: Callable[[], None],
        should_stop: Callable[[], bool] = lambda: False,
        report_every: int = 50,
        validate_every: int = 500,
        store_every_s: float = 300.0,
    ) -> bool:
        """Iterates to the end of the run.

        Args:
            report: called where a resumed run begins, after the first iteration, every `report_every` iterations,
                after each validation and at the end.
            store: called to write a checkpoint: before and after each validation, every `store_every_s` seconds, when
                the run is stopped and at its end.
            should_stop: asked after every iteration.

        Returns:
            True if the run came to its end, False if it was stopped.
        """
        learner, processes = self.learner, self.learner.processes
        # All time counts, that of validation and storing too. A resumed run looks as if it had never paused.
        began = time.monotonic() - self.elapsed_s
        store = store if processes.is_first else lambda: None
        stored_s = self.elapsed_s
        if learner.recipe.keeps_best and self.validation and learner.start is not None and self.iteration == 0:
            # What was there before is the first to beat.
            dice = self._validate()
            self.history.append({"iteration": 0, "validation_dice": dice})
            self._tell(report, Progress(0, 0.0, None, dice))
        if self._is_unmeasured:
            # It was killed during a validation, which may be the best.
            loss, dice = sum(self._losses) / len(self._losses), self._validate()
            self.history.append({"iteration": self.iteration, "loss": loss, "validation_dice": dice})
            self._losses = []
            store()
            self._tell(report, Progress(self.iteration, self.fraction, loss, dice))
        elif self.iteration and self.fraction < 1:
            # The next report may be minutes away.
            self._tell(report, Progress(self.iteration, self.fraction, None, None))
        # A validation may have ended it.
        finished, stopped = self.fraction >= 1, False
        while not (finished or stopped):
            self._losses.append(self.step())
            self.elapsed_s = processes.of_first(time.monotonic() - began)
            finished = self.fraction >= 1
            stopped = not finished and bool(processes.of_first(should_stop()))
            validates = finished or self.iteration % validate_every == 0
            reports = validates or self.iteration == 1 or self.iteration % report_every == 0
            dice_now = None
            if validates and self.validation:
                # It takes the whole field: if anything ends the process, this does.
                self._is_unmeasured = True
                store()
                dice_now = self._validate()
            finished = finished or self.fraction >= 1
            stopped = stopped and not finished
            self.elapsed_s = processes.of_first(time.monotonic() - began)
            loss = sum(self._losses) / len(self._losses)
            if reports:
                validation = {} if dice_now is None else {"validation_dice": dice_now}
                self.history.append({"iteration": self.iteration, "loss": loss} | validation)
                self._losses = []
            # Before the report: where its reader has gone, the state is safe.
            if validates or stopped or self.elapsed_s - stored_s >= store_every_s:
                store()
                stored_s = self.elapsed_s
            if reports:
                self._tell(report, Progress(self.iteration, self.fraction, loss, dice_now))
        return finished

    def step(self) -> float:
        """One iteration, see `Learner.step`; returns the loss."""
        loss = self.learner.step(self.iteration, self.fraction)
        self.iteration += 1
        return loss

    def validation_dice(self) -> float:
        """See `validation.mean_dice`."""
        learner = self.learner
        network = learner.network.eval()
        predictor = Predictor(network, learner.device)
        dice = mean_dice(predictor, self.validation, learner.recipe.preprocessing)
        if predictor.steps_down:
            learner.say(f"Validation: {' '.join(predictor.steps_down)}")
            # The network may be the one that learns, and now be on the CPU.
            learner.place(network)
        return dice

    def save(self, path: Path) -> None:
        """Writes all that a resumed run needs, atomically.

        Raises:
            UserError: the file cannot be written.
        """
        write_checkpoint(
            path,
            self.learner.tensors() | {f"best.{name}": value for name, value in self.best.weights.items()},
            {
                "identity": self._identity(),
                "iteration": self.iteration,
                "elapsed_s": self.elapsed_s,
                "history": self.history,
                "losses": self._losses,
                "best_dice": self.best.dice if self.best.dice > -math.inf else None,
                "best_iteration": self.best.iteration,
                "n_without_gain": self.best.n_without_gain,
                "has_settled": self.has_settled,
                "is_unmeasured": self._is_unmeasured,
                "recomputes": self.learner.model.recomputes,
                "only_small_crops": self.learner.only_small_crops,
            },
        )

    def resume(self, path: Path) -> None:
        """Goes on where `save` stopped.

        Raises:
            UserError: the checkpoint is damaged, of another version or of another run (recipe, cases or seed differ).
        """
        tensors, state = read_checkpoint(path)
        try:
            self._restore(path, tensors, state)
        except KeyError as error:
            raise UserError(
                f"The checkpoint {path} was made by another version of this program. Go on with that one, or delete it "
                "and start the training again."
            ) from error

    def _restore(self, path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        stored, own = state["identity"], self._identity()
        different = [key for key, value in own.items() if stored.get(key) != value]
        if different:
            raise UserError(
                f"The checkpoint {path} belongs to another run: {', '.join(different)} differ. "
                "Resume with the same data, options and version of this program, or choose another output."
            )
        self.learner.load_tensors(tensors)
        self.learner.model.recomputes, self.learner.only_small_crops = state["recomputes"], state["only_small_crops"]
        self.iteration, self.elapsed_s = state["iteration"], state["elapsed_s"]
        self.history, self._losses = state["history"], state["losses"]
        self.best = Best(
            -math.inf if state["best_dice"] is None else state["best_dice"],
            state["n_without_gain"],
            state["best_iteration"],
            tensors_named("best", tensors),
        )
        self.has_settled, self._is_unmeasured = state["has_settled"], state["is_unmeasured"]

    def _identity(self) -> dict[str, Any]:
        start = self.learner.start
        return {
            # As JSON gives it back: with lists for tuples.
            "recipe": json.loads(json.dumps(self.learner.recipe.as_dict())),
            **case_identities(self.learner.cases, self.validation),
            "seed": self.learner.seed,
            "initial weights": None if start is None else weights_digest(start),
        }

    def _validate(self) -> float:
        """The validation Dice, the same in all processes; keeps the weights if they are the best so far."""
        processes, recipe = self.learner.processes, self.learner.recipe
        dice = processes.of_first(self.validation_dice() if processes.is_first else 0.0)
        if not self.best.update(dice):
            may_settle = recipe.schedule != "cosine" or self.fraction >= _LAST_PART
            self.has_settled = may_settle and 0 < recipe.patience <= self.best.n_without_gain
        elif recipe.keeps_best:
            self.best.keep(self.learner.network, self.iteration)
        self._is_unmeasured = False
        return dice

    def _tell(self, report: Callable[[Progress], None], progress: Progress) -> None:
        if self.learner.processes.is_first:
            report(progress)
