"""The optimisers are the recipes', and the average forgets the first weights soon."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.training.optimiser import make_average, make_optimiser
from vnet_segmentation.training.recipe import load_recipe


def test_the_papers_optimiser() -> None:
    optimiser = make_optimiser(VNet("monai", 1, "none"), load_recipe("paper"))
    assert isinstance(optimiser, torch.optim.SGD)
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (1e-4, 0.99, 5e-4, False)


def test_adamw_pulls_kernels_to_zero_and_nothing_else() -> None:
    network = VNet("monai", 1, "instance")
    optimiser = make_optimiser(network, replace(load_recipe("default"), weight_decay=0.03))
    assert isinstance(optimiser, torch.optim.AdamW)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        # Kernels have five axes; biases, slopes and gains have one.
        assert decay[id(parameter)] == (0.03 if parameter.ndim == 5 else 0.0), name
    assert len(decay) == len(list(network.parameters()))


@pytest.mark.parametrize("normalisation", ["instance", "batch"])
def test_weights_and_running_statistics_are_averaged(normalisation: str) -> None:
    network = VNet("monai", 1, normalisation)
    averaged = make_average(network, 0.25)
    expected: dict[str, Tensor] = {}
    # The first weights are taken as they are; then the n-th average keeps min(0.25, (1 + n) / (10 + n)) of the former:
    # 2/11, 3/12 = 0.25, 0.25.
    for keep in (0.0, 2 / 11, 0.25, 0.25):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_()
        network(torch.randn(1, 1, 16, 32, 32))
        averaged.update_parameters(network)
        for name, value in network.state_dict().items():
            expected[name] = keep * expected.get(name, 0.0) + (1 - keep) * value.double()
    kept = averaged.module.state_dict()
    assert kept.keys() == expected.keys()
    assert any("running_var" in name for name in kept) == (normalisation == "batch")
    for name, value in kept.items():
        if name.endswith("num_batches_tracked"):
            assert value == 4
        else:
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
