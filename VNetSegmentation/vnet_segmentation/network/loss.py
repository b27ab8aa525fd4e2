"""The soft Dice loss of the V-Net paper, and the logistic loss that it was compared with.

Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, section 3 ("Dice loss layer") and section 5 (the baseline).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vnet_segmentation.network.vnet import prostate_probability


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """D = 2 sum(p g) / (sum(p^2) + sum(g^2)) over the voxels of each volume (section 3).

    The sums are taken in float32 whatever the network computed in: in float16 they overflow. Deviation from the
    paper, whose formula is undefined there: where both are empty, D = 1 and its gradient is 0. A mask may also be soft,
    the prostate's share of each voxel.

    Args:
        probability: prostate probability p in [0, 1], (batch, ...).
        target: mask g of 0 to 1, (batch, ...), any dtype.

    Returns:
        D in [0, 1] of each volume, (batch,), float32.
    """
    p = probability.float().flatten(1)
    g = target.float().flatten(1)
    overlap = 2 * (p * g).sum(1)
    total = (p * p).sum(1) + (g * g).sum(1)
    both_empty = total == 0
    return torch.where(both_empty, torch.ones_like(total), overlap / total.masked_fill(both_empty, 1.0))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - D of the prostate's softmax, averaged over the batch.

    Args:
        logits: (batch, 2, depth, height, width).
        target: (batch, depth, height, width) of 0 to 1.

    Returns:
        Scalar in [0, 1], float32.
    """
    return 1 - soft_dice(prostate_probability(logits), target).mean()


def weighted_logistic_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Multinomial logistic loss with each class weighted by the inverse of its share of the voxels (section 5).

    The paper says that the classes were weighted and not by what; here each volume's two classes weigh the same.
    A class without voxels has no weight. Of a soft mask, each voxel belongs to both classes by its shares.

    Args:
        logits: (batch, 2, depth, height, width).
        target: (batch, depth, height, width) of 0 to 1.

    Returns:
        Scalar, float32: the mean over the batch of the mean over the classes present.
    """
    prostate = target.float().flatten(1)
    difference = (logits[:, 1].float() - logits[:, 0].float()).flatten(1)
    class_means = []
    # softplus(-d) and softplus(d) are the negative logarithms of the softmax of prostate and background.
    for members, loss in (
        (prostate, functional.softplus(-difference)),
        (1 - prostate, functional.softplus(difference)),
    ):
        # A class without voxels has a sum of 0, and stays 0.
        class_means.append((loss * members).sum(1) / members.sum(1).clamp(min=1e-6))
    n_classes = (prostate.amax(1) > 0).float() + (prostate.amin(1) < 1).float()
    return ((class_means[0] + class_means[1]) / n_classes).mean()


def logistic_loss_per_voxel(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy: the negative logarithm of the softmax of the true class; of a soft mask, of both classes by their
    shares. float32, (batch, depth, height, width)."""
    return functional.binary_cross_entropy_with_logits(
        logits[:, 1].float() - logits[:, 0].float(), target.float(), reduction="none"
    )


def dice_and_logistic_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss plus the plain mean logistic loss, or cross-entropy.

    Not in the paper: the second term keeps a gradient at voxels where the softmax saturates, and in volumes without
    prostate, where the Dice loss has none to speak of. Arguments and result as `dice_loss`, without upper bound.
    """
    return dice_loss(logits, target) + logistic_loss_per_voxel(logits, target).mean()


LOSSES = {
    "dice": dice_loss,
    "logistic": weighted_logistic_loss,
    "dice+logistic": dice_and_logistic_loss,
}
