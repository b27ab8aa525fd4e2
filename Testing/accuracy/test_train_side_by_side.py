"""Models that are trained side by side learn, each from its own cases, and become bundles."""

from __future__ import annotations

from dataclasses import replace

import torch
from accuracy.batch_samples import CaseTable
from accuracy.train_side_by_side import Member, instance_normalisation, train
from torch import nn

from vnet_segmentation.loss import LOSSES
from vnet_segmentation.preprocessing import Preprocessing
from vnet_segmentation.recipe import load_recipe
from vnet_segmentation.training_cache import TrainingCase

RECIPE = replace(
    load_recipe("default"),
    iterations=40,
    warm_up_iterations=2,
    learning_rate=0.01,
    averaging_decay=0.8,
    preprocessing=Preprocessing((1.5, 1.5, 2.0), (32, 32, 16)),
    centre_jitter_mm=(4.0, 4.0, 4.0),
    anywhere_probability=0.0,
)


def ball(brightness: float) -> TrainingCase:
    z, y, x = torch.meshgrid(*(torch.arange(n) - n / 2 for n in (24, 44, 44)), indexing="ij")
    inside = x**2 + y**2 + 2 * z**2 < 100
    image = torch.where(inside, brightness, 0.0) + 0.1 * torch.randn(inside.shape)
    return TrainingCase.from_arrays("ball", image, 255 * inside.to(torch.uint8))


def test_members_learn_each_from_its_own_cases() -> None:
    torch.manual_seed(0)
    # What is the gland is bright to one and dark to the other.
    table = CaseTable.of([ball(1.0), ball(-1.0)], torch.device("cpu"))
    members = [
        Member(RECIPE, 2, table, [case], [], seed, lambda model, x, t: LOSSES[RECIPE.loss](model(x), t))
        for seed, case in enumerate((0, 1))
    ]
    train(members, RECIPE.iterations)
    for member, case in zip(members, (0, 1), strict=True):
        image = table.volumes[case, 0][4:20, 6:38, 6:38]
        gland = table.volumes[case, 1][4:20, 6:38, 6:38] > 0.5
        image = (image - image.mean()) / image.std()
        with torch.inference_mode():
            found = member.averaged_network()(image[None, None]).argmax(1)[0] == 1
            other_way = member.averaged_network()(-image[None, None]).argmax(1)[0] == 1
        dice = 2 * (found & gland).sum() / (found.sum() + gland.sum())
        assert dice > 0.8
        assert 2 * (other_way & gland).sum() / (other_way.sum() + gland.sum()) < 0.5


def test_instance_normalisation_is_torchs() -> None:
    layer = nn.InstanceNorm3d(3, affine=True)
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    x = 2 + torch.randn(2, 3, 4, 6, 8)
    torch.testing.assert_close(instance_normalisation(layer, x), layer(x))
    assert instance_normalisation(layer, x.bfloat16()).dtype == torch.bfloat16
