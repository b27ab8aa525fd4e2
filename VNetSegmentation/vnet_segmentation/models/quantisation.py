"""Weights as 8-bit integers: a quarter of the size."""

from __future__ import annotations

import torch
from torch import Tensor


def quantise_weight(weight: Tensor, output_axis: int) -> tuple[Tensor, Tensor]:
    """Symmetrical 8-bit integers, with one scale for each output channel: |weight - restored| <= scale / 2.

    Args:
        weight: float32, any shape.
        output_axis: axis of the output channels: 0 for a convolution, 1 for a transposed one.

    Returns:
        int8 in [-127, 127], the shape of `weight`; and the scales, float32, (output channels,).
    """
    other_axes = [axis for axis in range(weight.ndim) if axis != output_axis]
    # A channel of zeros has no scale of its own; any positive number restores it.
    scale = (weight.abs().amax(other_axes) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / _along(scale, output_axis, weight.ndim)).round().to(torch.int8), scale


def restore_weight(integers: Tensor, scale: Tensor, output_axis: int) -> Tensor:
    """The inverse of `quantise_weight` but for the rounding. float32."""
    return integers.float() * _along(scale, output_axis, integers.ndim)


def _along(scale: Tensor, axis: int, ndim: int) -> Tensor:
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)])
