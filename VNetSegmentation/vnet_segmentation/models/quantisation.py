"""Weights as they are stored: the large ones as 8-bit integers, a quarter of the size, if so wished."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vnet_segmentation.network.vnet import VNet

_MIN_QUANTISED_ELEMENTS = 1000  # below, 8 bits save nothing that counts
_SCALE_ENDING = ".scale"


def stored_tensors(network: VNet, quantisation: str) -> dict[str, Tensor]:
    """What is stored of a network's weights, on the CPU: the tensors, and the scales of those that are integers.

    Args:
        quantisation: one of `description.QUANTISATIONS`.

    Raises:
        ValueError: a weight is not finite.
    """
    output_axes = _output_axes(network, quantisation)
    stored: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.float()
        if not tensor.isfinite().all():
            raise ValueError(f"The weights {name} are not finite: the network has diverged.")
        if name in output_axes:
            stored[name], stored[name + _SCALE_ENDING] = quantise_weight(tensor, output_axes[name])
        else:
            stored[name] = tensor
    return stored


def expected_tensors(network: VNet, quantisation: str) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Type and shape of each tensor that `stored_tensors` gives."""
    expected = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in network.state_dict().items()}
    for name, axis in _output_axes(network, quantisation).items():
        shape = expected[name][1]
        expected[name] = (torch.int8, shape)
        expected[name + _SCALE_ENDING] = (torch.float32, [shape[axis]])
    return expected


def restored_tensors(network: VNet, stored: dict[str, Tensor], quantisation: str) -> dict[str, Tensor]:
    """A network's weights by what `stored_tensors` gave."""
    restored = dict(stored)
    for name, axis in _output_axes(network, quantisation).items():
        restored[name] = restore_weight(stored[name], restored.pop(name + _SCALE_ENDING), axis)
    return restored


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


def _output_axes(network: VNet, quantisation: str) -> dict[str, int]:
    """Names of the weights that are stored as integers, with their axis of output channels."""
    if quantisation == "none":
        return {}
    return {
        f"{name}.weight": 1 if isinstance(module, nn.ConvTranspose3d) else 0
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and module.weight.numel() > _MIN_QUANTISED_ELEMENTS
    }
