"""A network that learns: one step after another, each in what memory there is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from vnet_segmentation.device import Device, best_precision, is_out_of_memory
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.network.loss import LOSSES
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.processes import Processes
from vnet_segmentation.training.augmentation import Sample, draw_sample, make_sample
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.optimiser import make_average, make_optimiser
from vnet_segmentation.training.recipe import Recipe


@dataclass
class Learner:
    """A network, its optimiser, and what both learn from.

    Everything random comes from one generator: on the same CPU, with as many threads, a seed gives the same weights. A
    GPU adds up gradients in another order each time.

    Where memory runs out in a step, it goes on with less: activations that are computed twice instead of kept, then
    small crops only, then the CPU.

    Args:
        cases: to learn from.
        synthetic: phantoms, drawn with the recipe's probability.
        device: where to compute; float32 is taken instead of float16.
        start: its weights are the initial ones; None for random ones.
        processes: those that share each batch, which the recipe's batch size must allow.
        say: told in a sentence when memory ran out.

    Raises:
        UserError: there are no cases.
    """

    recipe: Recipe
    cases: Sequence[TrainingCase]
    synthetic: Sequence[TrainingCase]
    device: Device
    seed: int = 0
    start: VNet | None = None
    processes: Processes = field(default_factory=Processes)
    say: Callable[[str], None] = lambda sentence: None
    only_small_crops: bool = field(default=False, init=False)
    """Whether larger ones found no memory."""

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
        self.place(self.model)
        self._shared = self.processes.share_gradients(self.model)
        decay = self.recipe.averaging_decay
        self.averaged = make_average(self.model, decay) if decay else None
        self.optimiser = make_optimiser(self.model, self.recipe)
        self.loss_function = LOSSES[self.recipe.loss]

    @property
    def network(self) -> VNet:
        """The model as it is now: the averaged weights where the recipe averages, with the initial ones' share."""
        network = self.model if self.averaged is None else cast(VNet, self.averaged.module)
        if self.start is None or not self.recipe.start_share:
            return network
        blend = copy.deepcopy(network)
        initial = self.start.state_dict()
        for name, value in blend.state_dict().items():
            if value.is_floating_point():
                value.lerp_(initial[name].to(value.device), self.recipe.start_share)
        return blend

    def place(self, network: VNet) -> None:
        """Puts a network where the learning is done."""
        network.to(self.device.torch_device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def step(self, iteration: int, fraction: float) -> float:
        """Draws a batch, augments it, and updates the weights.

        Args:
            iteration: from 0.
            fraction: part of the run that is done, 0 to 1; learning rate and size of the crops follow it.

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
            group["lr"] = self.recipe.learning_rate_at(iteration, fraction)
        self.model.train()
        # Less where memory runs out. All of it is done again then: a second update by the same samples, where the
        # first was half made, does no harm.
        while True:
            try:
                return self._learn(mine, iteration, fraction)
            except NotImplementedError as error:
                if self.device.name == "cpu":
                    raise
                # Augmentation needs more of a device than segmenting, for which it was tried.
                lacks = str(error).partition("\n")[0]
                raise UserError(
                    f"{self.device.name} cannot train with torch {torch.__version__}. Choose the CPU. It says: {lacks}",
                    ExitCode.USAGE,
                    "device",
                ) from error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.processes.count > 1 or not self._can_step_down:
                    raise
            # Outside the handler: while an exception lives, so do the tensors of the frames it holds.
            if iteration == 0:
                # The optimiser makes its own tensors in its first step; if that failed, some parameters have half of
                # them.
                self.optimiser.state.clear()
            self._step_down()

    def tensors(self) -> dict[str, Tensor]:
        """All that it has learned and draws from, for a checkpoint."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {
                f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in state.items() if value is not None
            }
        return tensors | {"generator": self.generator.get_state()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Goes on where `tensors` was called, of the same recipe; others among them are passed over."""
        self.model.load_state_dict(tensors_named("model", tensors))
        if self.averaged is not None:
            self.averaged.load_state_dict(tensors_named("averaged", tensors))
        optimiser_state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors_named("optimiser", tensors).items():
            index, key = name.split(".")
            optimiser_state.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": optimiser_state})
        self.generator.set_state(tensors["generator"])

    def _learn(self, samples: Sequence[Sample], iteration: int, fraction: float) -> float:
        """Updates the weights by some samples; returns the loss."""
        value = self.processes.mean(self._backward(samples, self._shape(fraction)))
        longest = math.inf if self.recipe.gradient_norm is None else self.recipe.gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise UserError(
                f"Training diverged at iteration {iteration}: the loss or its gradient is not finite. "
                "Train in the precision float32, with another seed or another preset."
            )
        self.optimiser.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return value

    def _backward(self, samples: Sequence[Sample], shape: tuple[int, int, int]) -> float:
        """The loss of some samples, cut out in this shape, and its gradient in the parameters."""
        self.optimiser.zero_grad(set_to_none=True)
        images, targets = self._batch(samples, shape)
        with self.device.autocast():
            logits = self._shared(images)
        loss = self.loss_function(logits, targets)
        loss.backward()
        return loss.item()

    def _batch(self, samples: Sequence[Sample], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Images (batch, 1, depth, height, width) and targets (batch, depth, height, width)."""
        preprocessing, device = self.recipe.preprocessing, self.device.torch_device
        pairs = [make_sample(sample, shape, preprocessing, device) for sample in samples]
        images = torch.stack([image for image, _ in pairs])[:, None]
        shares = torch.stack([share for _, share in pairs])
        targets = shares if self.recipe.soft_masks else shares >= 0.5
        return images.contiguous(memory_format=torch.channels_last_3d), targets

    def _shape(self, fraction: float) -> tuple[int, int, int]:
        """(depth, height, width) of the crops at this point of the run."""
        is_whole = fraction >= self.recipe.small_crop_until and not self.only_small_crops
        x, y, z = self.recipe.preprocessing.size if is_whole else self.recipe.small_crop_size
        return z, y, x

    @property
    def _can_step_down(self) -> bool:
        return not (self.model.recomputes and self.only_small_crops and self.device.name == "cpu")

    def _step_down(self) -> None:
        name = self.device.name
        if not self.model.recomputes:
            self.model.recomputes = True
            self.say(f"Memory ran out on {name}; going on with activations that are computed twice, which is slower.")
        elif not self.only_small_crops:
            self.only_small_crops = True
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


def tensors_named(group: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a checkpoint whose names begin with the group's, by the rest of their names."""
    beginning = f"{group}."
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}
