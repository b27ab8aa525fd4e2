"""Training a V-Net: the loop, its state on disk, and what it tells while it runs."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from vnet_segmentation.arrays import to_array
from vnet_segmentation.device import Device, best_precision, is_out_of_memory
from vnet_segmentation.errors import ExitCode, UserError, list_names
from vnet_segmentation.network.loss import LOSSES
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.processes import Processes
from vnet_segmentation.segmentation.inference import Predictor
from vnet_segmentation.training.augmentation import Sample, draw_sample, make_sample, middle_sample
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.checkpoint import read_checkpoint, write_checkpoint
from vnet_segmentation.training.recipe import Recipe

_CASES = ("training cases", "validation cases")
_SMALLEST_GAIN = 0.0005
"""Of validation Dice; less does not count as one."""
_LAST_PART = 0.75
"""Of a run with a cosine schedule: its rate has fallen to a seventh."""


@dataclass(frozen=True)
class Progress:
    """What a run tells after an iteration."""

    iteration: int
    fraction: float
    """Part of the run that is done, 0 to 1."""
    loss: float | None
    """Mean since the last report; None before the first iteration."""
    validation_dice: float | None
    """Mean over the validation cases, on the network's grid; None where it was not measured."""
    remaining_s: float | None
    """None before the first iteration."""


@dataclass
class TrainingRun:
    """A network that learns from cases, one iteration at a time, and can be stored and resumed between any two.

    Everything random comes from one generator whose state is stored too: on the same CPU, with as many threads, a seed
    gives the same run, and a resumed run is, bit for bit, the one that would have been. A GPU adds up gradients in
    another order each time, and with a limit in minutes the learning rate follows the clock: such runs differ.

    Where memory runs out in an iteration, a run goes on with less, also after it was resumed: activations that are
    computed twice instead of kept, then small crops only, then the CPU. A validation, which needs the whole field, has
    a ladder of its own (`inference.ladder`).

    Args:
        cases: to learn from.
        validation: never learned from.
        synthetic: phantoms, drawn with the recipe's probability.
        device: where to compute; float32 is taken instead of float16.
        minutes: the run ends after this time, all its sessions together, if the recipe's iterations have not ended it
            before.
        start: its weights are the initial ones; None for random ones.
        processes: those that share each batch, which the recipe's batch size must allow.
        say: told in a sentence when memory ran out.

    Raises:
        UserError: there are no cases.
    """

    recipe: Recipe
    cases: Sequence[TrainingCase]
    validation: Sequence[TrainingCase]
    synthetic: Sequence[TrainingCase]
    device: Device
    seed: int = 0
    minutes: float | None = None
    start: VNet | None = None
    processes: Processes = field(default_factory=Processes)
    say: Callable[[str], None] = lambda sentence: None
    iteration: int = field(default=0, init=False)
    elapsed_s: float = field(default=0.0, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)
    """Iteration, loss and, where it was measured, validation Dice of each report."""
    best_iteration: int | None = field(default=None, init=False)
    """Of the weights with the best validation, where the recipe keeps them; 0: those it started from."""
    has_settled: bool = field(default=False, init=False)
    """Whether the run ended because the validation Dice had not risen for as long as the recipe waits for it. With a
    cosine schedule not before its last quarter: while the rate is high, the Dice says little of what it will be."""

    def __post_init__(self) -> None:
        if not self.cases:
            raise UserError("There are no cases to learn from.")
        if self.recipe.batch_size % self.processes.count:
            raise ValueError(f"{self.processes.count} processes cannot share a batch of {self.recipe.batch_size}.")
        if self.device.precision == "float16":
            # The gradient of the Dice loss at a voxel is about 1 / voxels = 1e-6, where float16 has one digit left.
            reason = f"{self.device.reason} Training takes float32 instead of float16, in which its gradients vanish."
            self.device = replace(self.device, precision="float32", reason=reason)
        self.generator = torch.Generator().manual_seed(self.seed)
        # The initial weights are drawn by torch's own generator, which belongs to the caller: it is put back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.model = VNet(self.recipe.layout, self.recipe.width, self.recipe.normalisation)
        if self.start is not None:
            self.model.load_state_dict(self.start.state_dict())
        self._place(self.model)
        self._shared = self.processes.share_gradients(self.model)
        self.averaged = (
            AveragedModel(self.model, multi_avg_fn=self._average, use_buffers=True)
            if self.recipe.averaging_decay
            else None
        )
        self.optimiser = self._make_optimiser()
        self.loss_function = LOSSES[self.recipe.loss]
        self._losses: list[float] = []
        """Since the last report."""
        self._best: dict[str, Tensor] = {}
        """Weights with the highest validation Dice so far, where the recipe keeps them."""
        self._best_dice = -math.inf
        self._is_unmeasured = False
        self._n_without_gain = 0
        """Validations since then."""
        self._only_small_crops = False

    @property
    def fraction(self) -> float:
        """Part of the run that is done: of its iterations, or of its time where that is further."""
        if self.has_settled:
            return 1.0
        of_time = self.elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.iteration / self.recipe.iterations, of_time))

    @property
    def best_network(self) -> VNet:
        """The model to keep: the one with the best validation where the recipe keeps it, else the last one."""
        if not self._best:
            return self.last_network
        network = copy.deepcopy(self.last_network)
        network.load_state_dict(self._best)
        return network

    @property
    def last_network(self) -> VNet:
        """With the averaged weights where the recipe averages, and the initial ones' share in them."""
        network = self.model if self.averaged is None else cast(VNet, self.averaged.module)
        if self.start is None or not self.recipe.start_share:
            return network
        blend = copy.deepcopy(network)
        initial = self.start.state_dict()
        for name, value in blend.state_dict().items():
            if value.is_floating_point():
                value.lerp_(initial[name].to(value.device), self.recipe.start_share)
        return blend

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
            report: called after the first iteration, every `report_every` iterations, after each validation and at
                the end.
            store: called to write a checkpoint: before and after each validation, every `store_every_s` seconds, when
                the run is stopped and at its end.
            should_stop: asked after every iteration.

        Returns:
            True if the run came to its end, False if it was stopped.
        """
        # All time counts, that of validation and storing too. A resumed run looks as if it had never paused.
        began = time.monotonic() - self.elapsed_s
        store = store if self.processes.is_first else lambda: None
        stored_s = self.elapsed_s
        if self.recipe.keeps_best and self.validation and self.start is not None and self.iteration == 0:
            # What was there before is the first to beat.
            dice = self._validate()
            self.history.append({"iteration": 0, "validation_dice": dice})
            self._tell(report, Progress(0, 0.0, None, dice, None))
        if self._is_unmeasured:
            # It was killed during a validation, which may be the best.
            loss, dice = sum(self._losses) / len(self._losses), self._validate()
            self.history.append({"iteration": self.iteration, "loss": loss, "validation_dice": dice})
            self._losses = []
            store()
            self._tell(report, Progress(self.iteration, self.fraction, loss, dice, self._remaining_s()))
        # A validation may have ended it.
        finished, stopped = self.fraction >= 1, False
        while not (finished or stopped):
            self._losses.append(self.step())
            self.elapsed_s = self.processes.of_first(time.monotonic() - began)
            finished = self.fraction >= 1
            stopped = not finished and bool(self.processes.of_first(should_stop()))
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
            self.elapsed_s = self.processes.of_first(time.monotonic() - began)
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
                self._tell(report, Progress(self.iteration, self.fraction, loss, dice_now, self._remaining_s()))
        return finished

    def step(self) -> float:
        """One iteration: draws a batch, augments it, and updates the weights.

        Returns:
            The loss.

        Raises:
            UserError: the loss or its gradient is not finite any more, and the weights are left as they were; or the
                device lacks an operation (`ExitCode.USAGE`).
        """
        # All processes draw the whole batch, and each makes its own part of it.
        samples = [
            draw_sample(self.recipe, self.cases, self.synthetic, self.generator) for _ in range(self.recipe.batch_size)
        ]
        mine = samples[self.processes.rank :: self.processes.count]
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.iteration, self.fraction)
        self.model.train()
        value = self._learn_in_memory(mine)
        self.iteration += 1
        return value

    def _learn_in_memory(self, samples: Sequence[Sample]) -> float:
        """`_learn`, with less where memory runs out. All of it is done again: a second update by the same samples,
        where the first was half made, does no harm."""
        while True:
            try:
                return self._learn(samples)
            except NotImplementedError as error:
                if self.device.name == "cpu":
                    raise
                # Augmentation needs more of a device than segmenting, for which it was tried.
                lacks = str(error).partition("\n")[0]
                raise UserError(
                    f"{self.device.name} cannot train with torch {torch.__version__}. Choose the CPU (--device cpu). "
                    f"It says: {lacks}",
                    ExitCode.USAGE,
                ) from error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.processes.count > 1 or not self._can_step_down:
                    raise
            # Outside the handler: while an exception lives, so do the tensors of the frames it holds.
            self._step_down()

    def _learn(self, samples: Sequence[Sample]) -> float:
        """Updates the weights by some samples; returns the loss."""
        value = self.processes.mean(self._backward(samples))
        longest = math.inf if self.recipe.gradient_norm is None else self.recipe.gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise UserError(
                f"Training diverged at iteration {self.iteration}: the loss or its gradient is not finite. "
                "Train in --precision float32, with another --seed or another --preset."
            )
        self.optimiser.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return value

    def _backward(self, samples: Sequence[Sample]) -> float:
        """The loss of some samples, and its gradient in the parameters."""
        self.optimiser.zero_grad(set_to_none=True)
        images, targets = self._batch(samples)
        with self.device.autocast():
            logits = self._shared(images)
        loss = self.loss_function(logits, targets)
        loss.backward()
        return loss.item()

    @property
    def _can_step_down(self) -> bool:
        return not (self.model.recomputes and self._only_small_crops and self.device.name == "cpu")

    def _step_down(self) -> None:
        name = self.device.name
        if self.iteration == 0:
            # The optimiser makes its own tensors in its first step; if that failed, some parameters have half of them.
            self.optimiser.state.clear()
        if not self.model.recomputes:
            self.model.recomputes = True
            self.say(f"Memory ran out on {name}; going on with activations that are computed twice, which is slower.")
        elif not self._only_small_crops:
            self._only_small_crops = True
            self.say(f"Memory ran out on {name}; going on with small crops only.")
        else:
            precision, because = best_precision("cpu")
            self.device = Device("cpu", precision, f"Memory ran out on {name}; {because}.")
            self.say(f"Memory ran out on {name}; going on with the CPU.")
            for module in (self.model, self.averaged):
                if module is not None:
                    module.cpu()
            # Loading puts the optimiser's own tensors where its parameters are.
            self.optimiser.load_state_dict(self.optimiser.state_dict())
        self.optimiser.zero_grad(set_to_none=True)
        if torch.device(name).type == "cuda":
            torch.cuda.empty_cache()

    def validation_dice(self) -> float:
        """Mean Dice of the thresholded probability over the validation cases, on crops centred on the scan.

        Raises:
            UserError: not even tiles on the CPU fit into memory (`ExitCode.OUT_OF_MEMORY`).
        """
        network = self.last_network.eval()
        predictor = Predictor(network, self.device)
        total = 0.0
        for case in self.validation:
            cpu = torch.device("cpu")
            image, share = make_sample(middle_sample(case), self._full_shape, self.recipe.preprocessing, cpu)
            prediction, target = predictor.probability(image) >= 0.5, share >= 0.5
            both, size = (prediction & target).sum().item(), (prediction.sum() + target.sum()).item()
            total += 2 * both / size if size else 1.0
        if predictor.steps_down:
            self.say(f"Validation: {' '.join(predictor.steps_down)}")
            # The network may be the one that learns, and now be on the CPU.
            self._place(network)
        return total / len(self.validation)

    def _validate(self) -> float:
        """The validation Dice, the same in all processes; keeps the weights if they are the best so far."""
        dice = self.processes.of_first(self.validation_dice() if self.processes.is_first else 0.0)
        if dice > self._best_dice + _SMALLEST_GAIN:
            self._best_dice, self._n_without_gain = dice, 0
            if self.recipe.keeps_best:
                self.best_iteration = self.iteration
                state = self.last_network.state_dict()
                self._best = {name: value.detach().cpu().clone() for name, value in state.items()}
        else:
            self._n_without_gain += 1
            may_settle = self.recipe.schedule != "cosine" or self.fraction >= _LAST_PART
            self.has_settled = may_settle and 0 < self.recipe.patience <= self._n_without_gain
        self._is_unmeasured = False
        return dice

    def _tell(self, report: Callable[[Progress], None], progress: Progress) -> None:
        if self.processes.is_first:
            report(progress)

    def save(self, path: Path) -> None:
        """Writes all that a resumed run needs, atomically.

        Raises:
            UserError: the file cannot be written.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in state.items() if value is not None
            }
        tensors["generator"] = self.generator.get_state()
        write_checkpoint(
            path,
            tensors,
            {
                "identity": self._identity(),
                "iteration": self.iteration,
                "elapsed_s": self.elapsed_s,
                "history": self.history,
                "losses": self._losses,
                "best_dice": self._best_dice if self._best_dice > -math.inf else None,
                "best_iteration": self.best_iteration,
                "n_without_gain": self._n_without_gain,
                "has_settled": self.has_settled,
                "is_unmeasured": self._is_unmeasured,
                "recomputes": self.model.recomputes,
                "only_small_crops": self._only_small_crops,
            },
        )

    def resume(self, path: Path) -> None:
        """Goes on where `save` stopped.

        Raises:
            UserError: the checkpoint is damaged or belongs to another run (recipe, cases or seed differ), or the
                files of a case have changed.
        """
        tensors, state = read_checkpoint(path)
        stored, own = state["identity"], self._identity()
        different = [key for key, value in own.items() if stored.get(key) != value]
        if different:
            refuse_changed_cases(stored, own)
            raise UserError(
                f"The checkpoint {path} belongs to another run: {', '.join(different)} differ. "
                "Resume with the same data, options and version of this program, or choose another output."
            )
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "best": {}, "optimiser": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            if group in groups:
                groups[group][rest] = value
        self.model.load_state_dict(groups["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(groups["averaged"])
        optimiser_state: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            index, key = name.split(".")
            optimiser_state.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": optimiser_state})
        self.generator.set_state(tensors["generator"])
        self.iteration, self.elapsed_s = state["iteration"], state["elapsed_s"]
        self.history, self._losses = state["history"], state["losses"]
        self._best, self.best_iteration = groups["best"], state["best_iteration"]
        self._n_without_gain, self.has_settled = state["n_without_gain"], state["has_settled"]
        self._is_unmeasured = state["is_unmeasured"]
        self.model.recomputes, self._only_small_crops = state["recomputes"], state["only_small_crops"]
        self._best_dice = -math.inf if state["best_dice"] is None else state["best_dice"]

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": _plain(self.recipe.as_dict()),
            **case_identities(self.cases, self.validation),
            "seed": self.seed,
            "initial weights": None if self.start is None else _hash(self.start),
        }

    def _place(self, network: VNet) -> None:
        network.to(self.device.torch_device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _remaining_s(self) -> float:
        return self.elapsed_s * (1 - self.fraction) / self.fraction if self.fraction else math.inf

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        # Early on the average is short, so that the random initial weights are forgotten at once.
        n = int(n_averaged)
        decay = min(self.recipe.averaging_decay, (1 + n) / (10 + n))
        for kept, new in zip(averaged, current, strict=True):
            # A normalisation's count of batches is an integer.
            kept.copy_(torch.lerp(new, kept, decay) if kept.is_floating_point() else new)

    def _make_optimiser(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        if recipe.optimiser == "sgd":
            return torch.optim.SGD(
                self.model.parameters(),
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
            )
        # Decay pulls kernels to 0; a PReLU slope or the gain of a normalisation has no reason to go there.
        kernels = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        return torch.optim.AdamW(
            [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
        )

    @property
    def _full_shape(self) -> tuple[int, int, int]:
        x, y, z = self.recipe.preprocessing.size
        return z, y, x

    @property
    def _shape(self) -> tuple[int, int, int]:
        """(depth, height, width) of the crops at this point of the run."""
        if self.fraction >= self.recipe.small_crop_until and not self._only_small_crops:
            return self._full_shape
        x, y, z = self.recipe.small_crop_size
        return z, y, x

    def _batch(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        preprocessing, device = self.recipe.preprocessing, self.device.torch_device
        pairs = [make_sample(sample, self._shape, preprocessing, device) for sample in samples]
        shares = torch.stack([share for _, share in pairs])
        targets = shares if self.recipe.soft_masks else shares >= 0.5
        return _as_input(torch.stack([image for image, _ in pairs])), targets


def case_identities(training: Sequence[TrainingCase], validation: Sequence[TrainingCase]) -> dict[str, Any]:
    """What a stored state has of its cases: name, label and source of each."""
    parts = zip(_CASES, (training, validation), strict=True)
    return {key: [[case.name, case.label, case.source] for case in cases] for key, cases in parts}


def refuse_changed_cases(stored: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises `UserError` if a stored state is of the same run, but for what the files of its cases hold.

    Args:
        stored, own: with what `case_identities` gave, and all else that tells runs apart.
    """
    if any(stored.get(key) != value for key, value in own.items() if key not in _CASES):
        return
    changed = []
    for key in _CASES:
        if [case[:2] for case in stored.get(key, [])] != [case[:2] for case in own[key]]:
            return
        changed += [case[0] for case, before in zip(own[key], stored[key], strict=True) if case != before]
    if changed:
        names = list_names(changed)
        raise UserError(
            f"Since this training began, {names} changed. Put the former files back, or begin a new training."
        )


def _as_input(images: Tensor) -> Tensor:
    return images[:, None].contiguous(memory_format=torch.channels_last_3d)


def _hash(network: VNet) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(to_array(value.reshape(-1).view(torch.uint8)).data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
