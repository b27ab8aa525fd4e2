"""Weights come back from 8 bits but for the rounding."""

from __future__ import annotations

import torch

from vnet_segmentation.models.quantisation import quantise_weight, restore_weight


def test_quantise_weight_by_hand() -> None:
    # Scales: 127/127 = 1; 2.54/127 = 0.02; a channel of zeros has none.
    weight = torch.tensor([[127.0, -63.6, 0.4], [2.54, -1.0, 0.03], [0.0, 0.0, 0.0]])
    integers, scale = quantise_weight(weight, output_axis=0)
    assert integers.dtype == torch.int8
    # -1 / 0.02 = -50; 0.03 / 0.02 = 1.5, whose float32 quotient lies at or above 1.5 and so becomes 2.
    assert integers.tolist() == [[127, -64, 0], [127, -50, 2], [0, 0, 0]]
    torch.testing.assert_close(scale[:2], torch.tensor([1.0, 0.02]))
    restored = torch.tensor([[127.0, -64.0, 0.0], [2.54, -1.0, 0.04], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(restore_weight(integers, scale, output_axis=0), restored)


def test_quantise_weight_along_the_second_axis_is_that_of_the_transposed() -> None:
    weight = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1))
    integers, scale = quantise_weight(weight, output_axis=1)
    transposed_integers, transposed_scale = quantise_weight(weight.transpose(0, 1), output_axis=0)
    assert torch.equal(integers, transposed_integers.transpose(0, 1))
    assert torch.equal(scale, transposed_scale)
