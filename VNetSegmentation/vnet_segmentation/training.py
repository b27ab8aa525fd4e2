"""Training a V-Net: the loop, its state on disk, and what it tells while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from vnet_segmentation.appearance import change_appearance, match_histogram, sample_appearance
from vnet_segmentation.checkpoint import read_checkpoint, write_checkpoint
from vnet_segmentation.deformation import deform, sample_deformation
from vnet_segmentation.device import Device
from vnet_segmentation.errors import UserError
from vnet_segmentation.loss import LOSSES
from vnet_segmentation.network import VNet, prostate_probability
from vnet_segmentation.preprocessing import Preprocessing, normalise
from vnet_segmentation.recipe import Recipe
from vnet_segmentation.training_cache import TrainingCase


@dataclass(frozen=True)
class Progress:
    """What a run tells after an iteration."""

    iteration: int
    fraction: float
    """Part of the run that is done, 0 to 1."""
    loss: float
    """Mean since the last report."""
    validation_dice: float | None
    """Mean over the validation cases, on the network's grid; None where it was not measured."""
    remaining_s: float


@dataclass
class TrainingRun:
    """A network that learns from cases, one iteration at a time, and can be stored and resumed between any two.

    Everything random comes from one generator whose state is stored too: the same seed gives the same run, and on the
    CPU a resumed run is, bit for bit, the one that would have been. With a limit in minutes the learning rate follows
    the clock, so that two runs differ.

    Args:
        network: {"layout": ..., "width": ...}; the normalisation is the recipe's.
        cases: to learn from.
        validation: never learned from.
        synthetic: phantoms, drawn with the recipe's probability.
        device: where to compute; float32 is taken instead of float16.
        minutes: the run ends after this time, all its sessions together, if the recipe's iterations have not ended it
            before.

    Raises:
        UserError: there are no cases.
    """

    network: dict[str, Any]
    recipe: Recipe
    preprocessing: Preprocessing
    cases: Sequence[TrainingCase]
    validation: Sequence[TrainingCase]
    synthetic: Sequence[TrainingCase]
    device: Device
    seed: int = 0
    minutes: float | None = None
    iteration: int = field(default=0, init=False)
    elapsed_s: float = field(default=0.0, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)
    """Iteration, loss and, where it was measured, validation Dice of each report."""

    def __post_init__(self) -> None:
        if not self.cases:
            raise UserError("There are no cases to learn from.")
        if self.device.precision == "float16":
            # The gradient of the Dice loss at a voxel is about 1 / voxels = 1e-6, where float16 has one digit left.
            reason = f"{self.device.reason} Training takes float32 instead of float16, in which its gradients vanish."
            self.device = replace(self.device, precision="float32", reason=reason)
        self.generator = torch.Generator().manual_seed(self.seed)
        # The initial weights are drawn by torch's own generator, which belongs to the caller: it is put back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.model = VNet(**self.network, normalisation=self.recipe.normalisation)
        self.model.to(self.device.torch_device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.averaged = (
            AveragedModel(self.model, multi_avg_fn=self._average, use_buffers=True)
            if self.recipe.averaging_decay
            else None
        )
        self.optimiser = self._make_optimiser()
        self.loss_function = LOSSES[self.recipe.loss]
        self._losses: list[float] = []
        """Since the last report."""

    @property
    def fraction(self) -> float:
        """Part of the run that is done: of its iterations, or of its time where that is further."""
        of_time = self.elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.iteration / self.recipe.iterations, of_time))

    @property
    def best_network(self) -> VNet:
        """The model to keep: the averaged weights where the recipe averages, else the last ones."""
        return self.model if self.averaged is None else cast(VNet, self.averaged.module)

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
            store: called to write a checkpoint: after each validation, every `store_every_s` seconds, when the run is
                stopped and at its end.
            should_stop: asked after every iteration.

        Returns:
            True if the run came to its end, False if it was stopped.
        """
        # All time counts, that of validation and storing too. A resumed run looks as if it had never paused.
        began = time.monotonic() - self.elapsed_s
        stored_s = self.elapsed_s
        finished = self.fraction >= 1
        stopped = False
        while not (finished or stopped):
            self._losses.append(self.step())
            self.elapsed_s = time.monotonic() - began
            finished = self.fraction >= 1
            stopped = not finished and should_stop()
            validates = finished or self.iteration % validate_every == 0
            reports = validates or self.iteration == 1 or self.iteration % report_every == 0
            dice = self.validation_dice() if validates and self.validation else None
            self.elapsed_s = time.monotonic() - began
            loss = sum(self._losses) / len(self._losses)
            if reports:
                validation = {} if dice is None else {"validation_dice": dice}
                self.history.append({"iteration": self.iteration, "loss": loss} | validation)
                self._losses = []
            # Before the report: where its reader has gone, the state is safe.
            if validates or stopped or self.elapsed_s - stored_s >= store_every_s:
                store()
                stored_s = self.elapsed_s
            if reports:
                report(Progress(self.iteration, self.fraction, loss, dice, self._remaining_s()))
        return finished

    def step(self) -> float:
        """One iteration: draws a batch, augments it, and updates the weights.

        Returns:
            The loss.

        Raises:
            UserError: the loss or its gradient is not finite any more; the weights are left as they were.
        """
        images, targets = self._batch()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.iteration, self.fraction)
        self.model.train()
        with self.device.autocast():
            logits = self.model(images)
        loss = self.loss_function(logits, targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        longest = math.inf if self.recipe.gradient_norm is None else self.recipe.gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise UserError(
                f"Training diverged at iteration {self.iteration}: the loss or its gradient is not finite. "
                "Train in --precision float32, with another --seed or another --preset."
            )
        self.optimiser.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.iteration += 1
        return value

    @torch.inference_mode()
    def validation_dice(self) -> float:
        """Mean Dice of the thresholded probability over the validation cases, on crops centred on the scan."""
        network = self.best_network.eval()
        total = 0.0
        for case in self.validation:
            middle = (torch.tensor(case.image.shape[::-1]) - 1) / 2
            image, target = self._crop(case, middle, self._full_shape)
            with self.device.autocast():
                probability = prostate_probability(network(_as_input(image[None])))[0]
            prediction = probability >= 0.5
            both, size = (prediction & target).sum().item(), (prediction.sum() + target.sum()).item()
            total += 2 * both / size if size else 1.0
        return total / len(self.validation)

    def save(self, path: Path) -> None:
        """Writes all that a resumed run needs, atomically.

        Raises:
            UserError: the file cannot be written.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
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
            },
        )

    def resume(self, path: Path) -> None:
        """Goes on where `save` stopped.

        Raises:
            UserError: the checkpoint is damaged or belongs to another run (network, recipe, cases or seed differ).
        """
        tensors, state = read_checkpoint(path)
        different = [key for key, value in self._identity().items() if state["identity"].get(key) != value]
        if different:
            raise UserError(
                f"The checkpoint {path} belongs to another run: {', '.join(different)} differ. "
                "Resume with the same data and options, or choose another output."
            )
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "optimiser": {}}
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

    def _identity(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "recipe": _plain(self.recipe.as_dict()),
            "preprocessing": _plain(self.preprocessing.as_dict()),
            "training cases": [case.name for case in self.cases],
            "validation cases": [case.name for case in self.validation],
            "seed": self.seed,
        }

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
        x, y, z = self.preprocessing.size
        return z, y, x

    def _batch(self) -> tuple[Tensor, Tensor]:
        samples = [self._sample() for _ in range(self.recipe.batch_size)]
        return _as_input(torch.stack([image for image, _ in samples])), torch.stack([mask for _, mask in samples])

    def _sample(self) -> tuple[Tensor, Tensor]:
        """A random, augmented crop: image (depth, height, width) and mask, bool."""
        recipe = self.recipe
        is_synthetic = bool(self.synthetic) and self._uniform() < recipe.synthetic_probability
        case = self._choose(self.synthetic if is_synthetic else self.cases)
        x, y, z = recipe.small_crop_size
        shape = (z, y, x) if self.fraction < recipe.small_crop_until else self._full_shape
        return self._crop(case, self._centre(case), shape, augmented=True)

    def _centre(self, case: TrainingCase) -> Tensor:
        last = torch.tensor(case.image.shape[::-1]) - 1
        if self._uniform() < self.recipe.anywhere_probability:
            return torch.rand(3, generator=self.generator) * last
        if not any(self.recipe.centre_jitter_mm):
            return last / 2
        jitter_voxels = torch.tensor(self.recipe.centre_jitter_mm) / torch.tensor(self.preprocessing.spacing_mm)
        return case.gland_centre + (2 * torch.rand(3, generator=self.generator) - 1) * jitter_voxels

    def _crop(
        self, case: TrainingCase, centre: Tensor, shape: tuple[int, int, int], augmented: bool = False
    ) -> tuple[Tensor, Tensor]:
        deformation = sample_deformation(self.recipe.deformation, self.generator) if augmented else None
        volumes = case.volumes(self.device.torch_device)
        (image, mask), inside = deform(volumes, centre, shape, deformation, self.preprocessing.spacing_mm)
        if augmented:
            appearance = sample_appearance(self.recipe.appearance, self.generator)
            if appearance.matches_histogram:
                source, target = case.quantiles, self._choose(self.cases).quantiles
                image = match_histogram(image, source.to(image.device), target.to(image.device))
            image = change_appearance(image, inside, appearance)
        return normalise(image, inside, self.preprocessing.clip_percentiles), mask >= 0.5

    def _choose(self, cases: Sequence[TrainingCase]) -> TrainingCase:
        return cases[int(torch.randint(len(cases), (), generator=self.generator))]

    def _uniform(self) -> float:
        return torch.rand((), generator=self.generator).item()


def _as_input(images: Tensor) -> Tensor:
    return images[:, None].contiguous(memory_format=torch.channels_last_3d)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
