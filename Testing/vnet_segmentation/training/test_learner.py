"""A learner learns from what the recipe says, as fast as it says, and in what memory there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_learners import (
    MODERN,
    PAPER,
    PLAIN,
    are_same,
    make_case,
    make_learner,
    make_start,
    state_of,
)
from torch import Tensor

from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.model.parameters()])


def test_the_seed_gives_the_initial_weights_and_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(77)
    before = torch.get_rng_state()
    one, same, other = (make_learner(PAPER, seed=seed).model.down_steps[0][0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_learning_follows_the_recipes_rate() -> None:
    learner = make_learner(replace(PLAIN, iterations=4, warm_up_iterations=1, learning_rate=0.5))
    rates = []
    for iteration in range(3):
        learner.step(iteration, iteration / 4)
        rates.append(learner.optimiser.param_groups[0]["lr"])
        assert {group["lr"] for group in learner.optimiser.param_groups} == {rates[-1]}
    # Half for the warm-up; then (1 + cos(pi p)) / 2 at p = 1/4 and 1/2.
    assert rates == pytest.approx([0.25, 0.5 * (2 + 2**0.5) / 4, 0.25])


def test_long_gradients_are_shortened() -> None:
    # SGD without momentum and decay moves the weights by the rate times the gradient: at most by 1.0 * 0.001.
    recipe = replace(PLAIN, optimiser="sgd", momentum=0.0, weight_decay=0.0, schedule="steps", learning_rate=1.0)
    moves = {}
    for limit in (0.001, None):
        learner = make_learner(replace(recipe, gradient_norm=limit))
        before = weights_of(learner)
        learner.step(0, 0.0)
        moves[limit] = (weights_of(learner) - before).norm().item()
    assert moves[0.001] == pytest.approx(0.001, rel=0.01)
    assert moves[None] > 0.01


def test_without_averaging_the_last_weights_are_the_model() -> None:
    learner = make_learner(PAPER)
    assert learner.network is learner.model
    assert learner.averaged is None


def inputs_of(learner: Learner, fractions: Sequence[float]) -> list[Tensor]:
    """What the network sees at these parts of a run."""
    images: list[Tensor] = []
    learner.model.register_forward_pre_hook(lambda _, arguments: images.append(arguments[0]))
    for fraction in fractions:
        learner.step(0, fraction)
    return images


def test_crops_are_small_first_and_then_the_whole_field() -> None:
    learner = make_learner(replace(PLAIN, batch_size=2, small_crop_until=0.5, small_crop_share=0.5))
    shapes = [tuple(image.shape) for image in inputs_of(learner, [0.0, 0.25, 0.5, 0.75])]
    # Axes (batch, channel, z, y, x).
    assert shapes == [(2, 1, 16, 16, 16)] * 2 + [(2, 1, 16, 32, 32)] * 2


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_synthetic_cases_are_drawn_with_their_probability(probability: float) -> None:
    # A case without contrast is 0 when it is normalised, the phantom is not.
    flat = TrainingCase.from_arrays("flat", torch.full((16, 32, 32), 7.0), make_case(0).coverage[:16, :32, :32])
    learner = make_learner(replace(PLAIN, synthetic_probability=probability), cases=[flat])
    assert [bool(image.any()) for image in inputs_of(learner, [0.0] * 3)] == [probability == 1] * 3


@pytest.mark.parametrize("soft_masks", [False, True])
def test_masks_are_soft_where_the_recipe_says_so(soft_masks: bool) -> None:
    # A share of 102 / 255 = 0.4 is no prostate, of 204 / 255 = 0.8 is.
    coverage = torch.full((16, 32, 32), 102, dtype=torch.uint8)
    coverage[:, :, 16:] = 204
    case = TrainingCase.from_arrays("", make_case(0).image[:16, :32, :32], coverage)
    learner = make_learner(replace(PLAIN, soft_masks=soft_masks), cases=[case])
    targets = []

    def record(_: Tensor, target: Tensor) -> Tensor:
        targets.append(target.float())
        return learner.model.output[0][0].weight.sum()

    learner.loss_function = record
    learner.step(0, 0.0)
    values = (targets[0] * 255).round().unique() / 255
    torch.testing.assert_close(values, torch.tensor([0.4, 0.8] if soft_masks else [0.0, 1.0]))


def test_a_start_gives_the_first_weights() -> None:
    start = make_start()
    learner = make_learner(start=start)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in learner.model.state_dict().items())
    learner.step(0, 0.0)
    assert not all(torch.equal(value, start.state_dict()[name]) for name, value in learner.model.state_dict().items())


@pytest.mark.parametrize("averaging_decay", [0.0, 0.9])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_start_has_its_share_in_the_model(averaging_decay: float, share: float) -> None:
    start = make_start()
    learner = make_learner(replace(PLAIN, start_share=share, averaging_decay=averaging_decay), start=start)
    for iteration in range(3):
        learner.step(iteration, 0.0)
    learned = (learner.averaged.module if learner.averaged else learner.model).state_dict()
    for name, value in learner.network.state_dict().items():
        assert torch.allclose(value, (1 - share) * learned[name] + share * start.state_dict()[name], atol=1e-7)


class OutOfMemory(Learner):
    """Memory runs out until the learner has stepped down so many times."""

    steps_down = 0
    needed = 0

    def _backward(self, *batch: Any) -> float:
        if self.steps_down < self.needed:
            self.steps_down += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super()._backward(*batch)


def test_memory_that_runs_out_costs_time_and_then_the_large_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    # A crop of 16 voxels a side is one voxel in the deepest stage, which has no deviation to normalise by.
    recipe = replace(PLAIN, normalisation="none", small_crop_share=0.5)
    learner = make_learner(recipe, cls=OutOfMemory, say=said.append)
    undisturbed = make_learner(recipe)
    learner.needed = 1
    learner.step(0, 0.0)
    undisturbed.step(0, 0.0)
    assert learner.model.recomputes
    assert are_same(state_of(learner), state_of(undisturbed))
    learner.needed = 2
    shapes = [tuple(image.shape[2:]) for image in inputs_of(learner, [0.0])]
    assert shapes == [(16, 16, 16)]
    assert ["computed twice" in said[0], "small crops" in said[1]] == [True, True]
    learner.needed = 3
    with pytest.raises(torch.cuda.OutOfMemoryError):
        learner.step(0, 0.0)


def test_memory_that_runs_out_in_the_optimisers_first_step_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, undisturbed = make_learner(), make_learner()
    step, parameter = learner.optimiser.step, next(learner.model.parameters())

    def fail() -> None:
        monkeypatch.setattr(learner.optimiser, "step", step)
        learner.optimiser.state[parameter]["step"] = torch.tensor(0.0)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(learner.optimiser, "step", fail)
    learner.step(0, 0.0)
    undisturbed.step(0, 0.0)
    assert learner.model.recomputes
    assert are_same(state_of(learner), state_of(undisturbed))


@pytest.mark.parametrize("recipe", [PAPER, MODERN], ids=["paper", "modern"])
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(recipe: Recipe) -> None:
    learner = make_learner(recipe)
    learner.step(0, 0.0)
    before = state_of(learner)
    learner.model.down_stages[0].activations[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match="diverged at iteration 1"):
        learner.step(1, 0.0)
    after = state_of(learner)
    # The batch was drawn, and in a batch normalisation seen.
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert all(name == "generator" or "running" in name or "num_batches" in name for name in changed)


def test_a_device_that_lacks_an_operation_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise NotImplementedError("aten::grid_sampler_3d is not implemented for the MPS device.\nmore")

    learner = make_learner()
    monkeypatch.setattr("vnet_segmentation.training.learner.make_sample", fail)
    with pytest.raises(NotImplementedError):
        learner.step(0, 0.0)
    learner.device = replace(learner.device, name="mps")
    with pytest.raises(UserError, match=r"Choose the CPU\. .* device\.$") as raised:
        learner.step(0, 0.0)
    assert (raised.value.exit_code, raised.value.argument) == (ExitCode.USAGE, "device")


def test_without_cases_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(UserError, match="no cases"):
        make_learner(cases=[])


def test_float16_is_too_short_for_gradients() -> None:
    device = make_learner(device=Device("cpu", "float16", "It was asked for.")).device
    assert (device.name, device.precision) == ("cpu", "float32")
    assert device.reason.startswith("It was asked for. Training takes float32 instead of float16")
