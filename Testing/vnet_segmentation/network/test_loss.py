"""Losses against the paper's formulas and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vnet_segmentation.network.loss import LOSSES, dice_loss, soft_dice, weighted_logistic_loss


def test_dice_by_hand():
    # 2 (0.5 + 1) / ((0.25 + 1 + 0.25) + 2) = 3 / 3.5
    probability = torch.tensor([[0.5, 1.0, 0.5, 0.0]])
    mask = torch.tensor([[1, 1, 0, 0]])
    assert soft_dice(probability, mask).tolist() == pytest.approx([3 / 3.5])


def test_gradient_is_the_papers_closed_formula():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(1, 4, 5, 6, generator=generator).requires_grad_()
    g = (torch.rand(1, 4, 5, 6, generator=generator) > 0.6).float()
    soft_dice(p, g).sum().backward()
    # Section 4: dD/dp_j = 2 [g_j (sum p^2 + sum g^2) - 2 p_j sum(p g)] / (sum p^2 + sum g^2)^2
    total, overlap = (p.detach() ** 2).sum() + (g**2).sum(), (p.detach() * g).sum()
    torch.testing.assert_close(p.grad, 2 * (g * total - 2 * p.detach() * overlap) / total**2)


def test_sums_do_not_overflow_in_float16():
    # 200,000 voxels of 1: float16 ends at 65,504.
    ones = torch.ones(1, 200_000, dtype=torch.float16)
    assert soft_dice(ones, ones).tolist() == [1.0]


def test_both_empty_agree_and_have_no_gradient():
    p = torch.zeros(1, 8, requires_grad=True)
    dice = soft_dice(p, torch.zeros(1, 8))
    assert dice.tolist() == [1.0]
    dice.sum().backward()
    assert p.grad.tolist() == [[0.0] * 8]


def test_dice_loss_is_the_mean_over_the_volumes():
    target = torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    target[0, ..., :2] = True
    logits = torch.zeros(2, 2, 1, 1, 4)
    # First volume: p = 0.5 everywhere, D = 2 * 1 / (1 + 2); second: no gland, D = 0 / 1.
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 / 3 + 0) / 2)


def test_weighted_logistic_loss_gives_both_classes_the_same_weight():
    # One voxel of prostate with p = 0.8, three of background with p = 0.1: -(ln 0.8 + ln 0.9) / 2.
    target = torch.tensor([True, False, False, False]).reshape(1, 1, 1, 4)
    probability = torch.tensor([0.8, 0.1, 0.1, 0.1])
    logits = torch.stack([(1 - probability).log(), probability.log()]).reshape(1, 2, 1, 1, 4)
    expected = -(math.log(0.8) + math.log(0.9)) / 2
    assert weighted_logistic_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_weighted_logistic_loss_of_a_single_class_is_that_of_this_class(only):
    logits = torch.zeros(1, 2, 1, 1, 4)
    assert weighted_logistic_loss(logits, torch.full((1, 1, 1, 4), only)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", LOSSES)
def test_a_right_answer_costs_less_than_a_wrong_one(name):
    target = torch.zeros(1, 4, 4, 4)
    target[:, 1:3, 1:3, 1:3] = 1
    right = torch.stack([1 - target, target], 1) * 8
    assert LOSSES[name](right, target) < 0.1 < LOSSES[name](-right, target)


def test_a_soft_mask_counts_for_both_classes():
    # d = logit(0.8): -log p = 0.2231, -log(1 - p) = 1.6094. Shares of 0.25 and 0.75 are one voxel of each class in all.
    logits = torch.zeros(1, 2, 1, 1, 2)
    logits[:, 1] = math.log(4)
    target = torch.tensor([[[[0.25, 0.75]]]])
    expected = (-math.log(0.8) - math.log(0.2)) / 2
    assert weighted_logistic_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)
    assert LOSSES["dice+logistic"](logits, target).item() == pytest.approx(
        # D = 2 (0.8 x 1) / (2 x 0.64 + 0.0625 + 0.5625)
        1 - 1.6 / 1.905 + (-math.log(0.8) - math.log(0.2)) / 2,
        rel=1e-5,
    )
