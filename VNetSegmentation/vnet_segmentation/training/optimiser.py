"""How weights move: the recipe's optimiser, and the average of the weights that it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vnet_segmentation.training.recipe import Recipe


def make_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of all of a network's weights."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    # Decay pulls kernels to 0; a PReLU slope or the gain of a normalisation has no reason to go there.
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential average of a network's weights and running statistics, of all that it is told of.

    Args:
        decay: share of the former average that a new one keeps; less at first, so that the random initial weights are
            forgotten at once.
    """

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        kept_share = min(decay, (1 + n) / (10 + n))
        for kept, new in zip(averaged, current, strict=True):
            # A normalisation's count of batches is an integer.
            kept.copy_(torch.lerp(new, kept, kept_share) if kept.is_floating_point() else new)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
