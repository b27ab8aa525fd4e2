"""Trains the models of a whole cross-validation side by side on one CUDA GPU, in minutes.

    python Testing/accuracy/train_side_by_side.py DATA -o DIR --width 16 --iterations 12100
    vnet-segmentation crossvalidate DATA -o DIR/folds --folds 5 --width 16
    vnet-segmentation crossvalidate DATA -o DIR/sites --by-site --width 16

A model per fold, one per site that has not seen it, and `DIR/final`, which learns from all cases; the second and third
command find their models made and measure them, and refuse other folds and options. Which models diverged is said at
the end: a command would train theirs anew, with the recipe's own iterations.

The network is too small for a large GPU: alone it would mostly wait for the next kernel. So every iteration, its
samples included, is one CUDA graph, and each model replays its own on a stream of its own. On one H100, 28 models of
width 8 took 11,484 iterations each in 493 s, 780 in a second with small crops and 393 with whole ones, and 135 s to
compile before; one by one, the program takes 20 in a second there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from accuracy.batch_samples import N_NORMAL, N_UNIFORM, BatchMaker, CaseTable

from vnet_segmentation.datasets.dataset import Case, find_cases
from vnet_segmentation.datasets.inspection import refuse_problems
from vnet_segmentation.errors import UserError
from vnet_segmentation.models.bundle import check_destination, save_bundle
from vnet_segmentation.network import vnet as network
from vnet_segmentation.network.loss import LOSSES
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.training.cache import SyntheticCases, load_cases
from vnet_segmentation.training.crossvalidation import claim_folds
from vnet_segmentation.training.folds import folds, site_folds
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.recipe import Recipe, load_recipe

Part = tuple[list[Case], list[Case]]
"""What a model learns from, and what it has not seen."""
Loss = Callable[[VNet, Tensor, Tensor], Tensor]
Make = Callable[[BatchMaker, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Member:
    """One of the models that are trained side by side.

    Args:
        cases, synthetic: numbers in the table of what it learns from.
        loss: of a network for images (batch, 1, depth, height, width) and shares (batch, depth, height, width).
        make: calls a maker.
    """

    def __init__(
        self,
        recipe: Recipe,
        table: CaseTable,
        cases: Sequence[int],
        synthetic: Sequence[int],
        seed: int,
        loss: Loss,
        make: Make = BatchMaker.__call__,
    ) -> None:
        self.recipe, self._loss, self._make = recipe, loss, make
        self.device = table.volumes.device
        torch.manual_seed(seed)
        self.network = VNet(recipe.layout, recipe.width, recipe.normalisation).to(self.device)
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._parameters = list(self.network.parameters())
        self.averaged = [parameter.detach().clone() for parameter in self._parameters]
        on_gpu = self.device.type == "cuda"
        self._stream = torch.cuda.Stream() if on_gpu else None
        self._rate = torch.zeros((), device=self.device)
        kernels = [p for p in self._parameters if p.ndim > 1]
        others = [p for p in self._parameters if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self._rate,
            fused=on_gpu,
            capturable=on_gpu,
        )
        x, y, z = recipe.preprocessing.size
        small_x, small_y, small_z = recipe.small_crop_size
        self.full, self.small = (z, y, x), (small_z, small_y, small_x)
        self._makers = {s: BatchMaker(recipe, table, cases, synthetic, s) for s in (self.small, self.full)}
        self._uniform = torch.zeros(recipe.batch_size, N_UNIFORM, device=self.device)
        self._normal = torch.zeros(recipe.batch_size, N_NORMAL, device=self.device)
        self._noise = {s: torch.zeros(recipe.batch_size, *s, device=self.device) for s in self._makers}
        self._graphs: dict[tuple[int, int, int], torch.cuda.CUDAGraph] = {}
        self.total_loss = torch.zeros((), device=self.device)
        """Of all steps; on the device, so that nothing waits for it."""

    def capture(self) -> None:
        """Makes the graphs. What comes before, at a rate of 0, compiles and chooses kernels."""
        assert self._stream is not None
        self._rate.zero_()
        for shape in self._makers:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(3):
                    self._draw_numbers(shape)
                    self._iterate(shape)
            self._stream.synchronize()
            self._graphs[shape] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graphs[shape], stream=self._stream):
                self._iterate(shape)
        self.total_loss.zero_()

    def step(self, iteration: int) -> None:
        """One iteration of the recipe's; on a GPU it is only asked for."""
        fraction = iteration / self.recipe.iterations
        shape = self.small if fraction < self.recipe.small_crop_until else self.full
        with torch.cuda.stream(self._stream):
            self._rate.fill_(self.recipe.learning_rate_at(iteration, fraction))
            self._draw_numbers(shape)
            if shape in self._graphs:
                self._graphs[shape].replay()
            else:
                self._iterate(shape)

    def averaged_network(self) -> VNet:
        """A copy with the averaged weights, on the CPU."""
        copy = VNet(self.network.layout, self.network.width, self.network.normalisation)
        with torch.no_grad():
            for parameter, average in zip(copy.parameters(), self.averaged, strict=True):
                parameter.copy_(average)
        return copy.eval()

    def _draw_numbers(self, shape: tuple[int, int, int]) -> None:
        self._uniform.uniform_()
        self._normal.normal_()
        self._noise[shape].normal_()

    def _iterate(self, shape: tuple[int, int, int]) -> None:
        maker, on_gpu = self._makers[shape], self.device.type == "cuda"
        with torch.no_grad():
            images, shares = self._make(maker, self._uniform, self._normal, self._noise[shape])
            images = images[:, None].contiguous(memory_format=torch.channels_last_3d)
        # Without autocast's cache, whose entries a graph would keep.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu, cache_enabled=False):
            loss = self._loss(self.network, images, shares)
        gradients = torch.autograd.grad(loss, self._parameters)
        with torch.no_grad():
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                # The fused optimiser wants its own strides.
                same = gradient.stride() == parameter.stride()
                parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.gradient_norm or float("inf"))
            self._optimiser.step()
            torch._foreach_lerp_(self.averaged, self._parameters, 1 - self.recipe.averaging_decay)
            self.total_loss += loss.detach()


def instance_normalisation(layer: nn.InstanceNorm3d, x: Tensor) -> Tensor:
    """The same as torch's, in operations that its compiler fuses with what follows, in any memory format."""
    exact = x.float()
    variance, mean = torch.var_mean(exact, (2, 3, 4), correction=0, keepdim=True)
    scaled = (exact - mean) * torch.rsqrt(variance + layer.eps)
    return (scaled * layer.weight.view(1, -1, 1, 1, 1) + layer.bias.view(1, -1, 1, 1, 1)).to(x.dtype)


def train(members: Sequence[Member], iterations: int, report_every: int = 500) -> None:
    """All iterations of all members, with a line about their losses now and then."""
    for iteration in range(iterations):
        for member in members:
            member.step(iteration)
        if (iteration + 1) % 10 == 0 and torch.cuda.is_available():
            # Not further ahead of the GPU than this.
            torch.cuda.synchronize()
        if (iteration + 1) % report_every == 0:
            losses = [member.total_loss.item() / report_every for member in members]
            print(f"{iteration + 1:6}", *(f"{loss:.3f}" for loss in losses), flush=True)
            for member in members:
                member.total_loss.zero_()


def prepare_output(
    output: Path, cases: Sequence[Case], parts: Mapping[str, Sequence[Part]], names: Iterable[str], width: int | None
) -> dict[str, str]:
    """Refuses what would fail, or be false, after all models are trained; claims the folders for these parts, so that
    `crossvalidate` refuses to measure the models by others, whose cases they may have seen.

    Args:
        parts: by the folder in the output, what the models there learn from and have not seen.
        names: of the models, folders in the output.
        width: as it will be given to `crossvalidate`.

    Returns:
        See `inspection.refuse_problems`.

    Raises:
        UserError: cases with problems, models that exist already, or folders of other parts.
    """
    voxel_hashes = refuse_problems(cases)
    for name in names:
        check_destination(output / name, Path(name).name)
    for folder, pairs in parts.items():
        claim_folds(output / folder, [unseen for _, unseen in pairs], TrainingOptions(width=width))
    return voxel_hashes


def save(member: Member, folder: Path, training: dict[str, Any]) -> str | None:
    """Writes a model's bundle.

    Args:
        training: the field of model.json.

    Returns:
        Why it could not be written, such as weights that are not finite; None if it was. The others can be all right.
    """
    recipe = member.recipe
    description = {
        "name": folder.name,
        "title": f"Prostate in T2-weighted MR: V-Net {recipe.layout}, width {recipe.width}",
        "preprocessing": recipe.preprocessing.as_dict(),
        "labels": ["background", "prostate"],
        "training": training,
        "metrics": {},
        "parent": None,
    }
    try:
        save_bundle(folder, member.averaged_network(), description, quantise=True)
    except (UserError, ValueError) as error:
        return f"{folder} was not written: {error}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the models; 1 if some of them could not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--width", type=int, help="default: the default recipe's")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the first model; the others have the next ones")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    recipe = load_recipe("default")
    recipe = replace(recipe, iterations=options.iterations or recipe.iterations, width=options.width or recipe.width)
    cases = [case for case in find_cases(options.data) if case.split != "test"]
    # The seed of the folds is that of `crossvalidate` by default.
    parts = {"folds": folds(cases, options.folds, 0), "sites": site_folds(cases)}
    learned = {"final": cases}
    for name, pairs in parts.items():
        learned |= {f"{name}/fold-{number}": part for number, (part, _) in enumerate(pairs, start=1)}
    voxel_hashes = prepare_output(options.output, cases, parts, learned, options.width)
    prepared = load_cases(cases, recipe.preprocessing, options.output / "cache")
    phantoms = SyntheticCases(recipe.n_synthetic_cases, recipe.preprocessing, options.output / "cache")
    table = CaseTable.of([*prepared, *phantoms], device)
    synthetic = range(len(cases), len(cases) + len(phantoms))

    def loss(model: VNet, images: Tensor, shares: Tensor) -> Tensor:
        return LOSSES[recipe.loss](model(images), shares)

    make: Make = BatchMaker.__call__
    if device.type == "cuda":
        network._InstanceNorm.forward = instance_normalisation  # type: ignore[method-assign,assignment]
        torch.backends.cudnn.benchmark = True
        loss = torch.compile(loss, dynamic=False)  # type: ignore[assignment]
        make = torch.compile(make, dynamic=False)
    members = {
        name: Member(recipe, table, [cases.index(case) for case in part], synthetic, seed, loss, make)
        for seed, (name, part) in enumerate(learned.items(), start=options.seed)
    }
    if device.type == "cuda":
        for member in members.values():
            member.capture()
    print("models:", *members)
    began = time.monotonic()
    train(list(members.values()), recipe.iterations)
    minutes = (time.monotonic() - began) / 60
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    failures = []
    for name, member in members.items():
        training = {
            "training_cases": [case.name for case in learned[name]],
            "voxel_hashes": sorted(voxel_hashes[case.name] for case in learned[name]),
            "preset": "default",
            "recipe": recipe.as_dict(),
            "iterations": recipe.iterations,
            "minutes": round(minutes, 1),
            "hardware": f"{hardware}, {len(members)} models side by side",
        }
        failures.append(save(member, options.output / name, training))
    print(*filter(None, failures), sep="\n")
    return 1 if any(failures) else 0


if __name__ == "__main__":
    sys.exit(main())
