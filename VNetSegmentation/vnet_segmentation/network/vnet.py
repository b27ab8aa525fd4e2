"""V-Net, the fully convolutional network for volumetric segmentation.

Source: Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
Image Segmentation", 3DV 2016, section 2, figure 2 and table 1.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

N_STAGES = 5
"""Resolutions on the way down; each step halves the sides."""

SIDE_MULTIPLE = 2 ** (N_STAGES - 1)
"""Every side of the input must be a multiple of this number of voxels (16)."""

MAX_WIDTH = 64
"""Of a model that is stored: four times the paper's, a billion parameters; a larger number is a slip or an attack."""

NORMALISATIONS = ("none", "batch", "instance")


@dataclass(frozen=True)
class Layout:
    """How many convolutions each stage has, of which size, and what follows the last stage."""

    down: tuple[int, ...]
    """Convolutions of the stages 1 (finest) to 5 (deepest) of the compression path."""
    up: tuple[int, ...]
    """Convolutions of the stages 4 to 1 of the decompression path."""
    wide_output: bool
    """Ends in one more such convolution, to the labels, PReLU and 1x1x1, instead of one 1x1x1 convolution."""
    residual: bool = True
    """Each stage adds its input to its last convolution's output."""
    kernel_size: int = 5
    """Side of the stages' convolutions, in voxels."""


LAYOUTS = {
    # Figure 2 and table 1 of the paper.
    "paper": Layout((1, 2, 3, 3, 3), (3, 3, 2, 1), wide_output=False),
    # The same without what each stage adds: what the residual functions are compared with in section 2.
    "plain": Layout((1, 2, 3, 3, 3), (3, 3, 2, 1), wide_output=False, residual=False),
    # The same with 3x3x3 convolutions: 27/125 of their weights and multiplications, which pay for a wider network or a
    # longer training. A deviation from the paper, whose stages have 5x5x5.
    "compact": Layout((1, 2, 3, 3, 3), (3, 3, 2, 1), wide_output=False, kernel_size=3),
    # The prototxt that the authors published later.
    "caffe": Layout((1, 1, 2, 3, 3), (3, 2, 1, 1), wide_output=True),
    # monai.networks.nets.VNet, which follows a PyTorch copy of the authors' code. MONAI has one more PReLU, before
    # the residual sum of every stage but the first; here, as in the paper, there is only the one after the sum.
    "monai": Layout((1, 1, 2, 3, 2), (2, 2, 1, 1), wide_output=True),
}


def _normalisation(name: str, channels: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm3d(channels)
    if name == "instance":
        return _InstanceNorm(channels, affine=True)
    return nn.Identity()


class _InstanceNorm(nn.InstanceNorm3d):
    """The same as its base, by way of groups of one channel on the CPU.

    There torch's instance normalisation does not know channels_last, and leaves an order that the next convolution has
    to undo: forward and backward took 58 ms against 35 ms for 2 x 16 x 32 x 64 x 64 values on one core. Groups in turn
    have a backward pass in bfloat16 that takes four times that in float32, so that training in bfloat16 was slower
    than in float32: they are computed in float32 between two casts. On a GPU, autocast computes groups in float32,
    instances not.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return functional.group_norm(x.float(), self.num_features, self.weight, self.bias, self.eps).to(x.dtype)


class _Convolution(nn.Sequential):
    """Convolution that keeps the size, and its normalisation."""

    def __init__(self, in_channels: int, out_channels: int, normalisation: str, kernel_size: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
            _normalisation(normalisation, out_channels),
        )


class _Stage(nn.Module):
    """Convolutions whose input is added to the last one's output before that one's PReLU (section 2)."""

    def __init__(self, in_channels: int, channels: int, n_convolutions: int, normalisation: str, plan: Layout) -> None:
        super().__init__()
        self._residual = plan.residual
        self.convolutions = nn.ModuleList(
            _Convolution(in_channels if i == 0 else channels, channels, normalisation, plan.kernel_size)
            for i in range(n_convolutions)
        )
        self.activations = nn.ModuleList(nn.PReLU(channels) for _ in range(n_convolutions))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution, activation in zip(self.convolutions[:-1], self.activations[:-1], strict=True):
            y = activation(convolution(y))
        y = self.convolutions[-1](y)
        # The first stage's one-channel image is repeated over the channels by broadcasting.
        return self.activations[-1](y + x if self._residual else y)


def _down_step(in_channels: int, out_channels: int, normalisation: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel_size=2, stride=2),
        _normalisation(normalisation, out_channels),
        nn.PReLU(out_channels),
    )


def _up_step(in_channels: int, out_channels: int, normalisation: str) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(in_channels, out_channels, kernel_size=2, stride=2),
        _normalisation(normalisation, out_channels),
        nn.PReLU(out_channels),
    )


class VNet(nn.Module):
    """V-Net with two output channels: background and prostate.

    Args:
        layout: a name in `LAYOUTS`: ``paper`` (figure 2 and table 1), ``plain`` (that without its residual functions),
            ``compact`` (that with 3x3x3 convolutions), ``caffe`` (the authors' prototxt) or ``monai``.
        width: channels of the first stage; each stage down doubles them. The paper has 16.
        normalisation: ``none`` as in the paper, ``batch`` or ``instance``; applied after every convolution
            but the last. A deviation from the paper, which has none.

    Raises:
        ValueError: unknown layout or normalisation, or a width below 1.
    """

    def __init__(self, layout: str = "paper", width: int = 16, normalisation: str = "none") -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"Unknown layout {layout!r}; known are {', '.join(LAYOUTS)}.")
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"Unknown normalisation {normalisation!r}; known are {', '.join(NORMALISATIONS)}.")
        if width < 1:
            raise ValueError(f"The width must be at least 1, is {width}.")
        self.layout, self.width, self.normalisation = layout, width, normalisation
        self.recomputes = False
        """Gradient checkpointing: in training, compute each stage's activations a second time instead of keeping them.
        Less memory, slower."""
        plan = LAYOUTS[layout]
        self._kernel_size = plan.kernel_size
        channels = [width * 2**i for i in range(N_STAGES)]

        self.down_steps = nn.ModuleList(
            _down_step(channels[i], channels[i + 1], normalisation) for i in range(N_STAGES - 1)
        )
        self.down_stages = nn.ModuleList(
            _Stage(1 if i == 0 else channels[i], channels[i], plan.down[i], normalisation, plan)
            for i in range(N_STAGES)
        )
        self.up_steps = nn.ModuleList()
        self.up_stages = nn.ModuleList()
        below = channels[-1]
        for skip, n_convolutions in zip(reversed(channels[:-1]), plan.up, strict=True):
            self.up_steps.append(_up_step(below, skip, normalisation))
            # The upsampled half and the skipped half side by side: twice the skip's channels.
            below = 2 * skip
            self.up_stages.append(_Stage(below, below, n_convolutions, normalisation, plan))
        if plan.wide_output:
            self.output = nn.Sequential(
                _Convolution(below, 2, normalisation, plan.kernel_size), nn.PReLU(2), nn.Conv3d(2, 2, kernel_size=1)
            )
        else:
            self.output = nn.Sequential(nn.Conv3d(below, 2, kernel_size=1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of a batch of normalised volumes.

        Args:
            image: (batch, 1, depth, height, width), every side a multiple of 16.

        Returns:
            Logits, (batch, 2, depth, height, width): channel 0 background, channel 1 prostate.

        Raises:
            ValueError: the shape is not as said above.
        """
        if image.ndim != 5 or image.shape[1] != 1 or any(side % SIDE_MULTIPLE or side == 0 for side in image.shape[2:]):
            raise ValueError(
                f"The network needs (batch, 1, depth, height, width) with sides that are multiples of "
                f"{SIDE_MULTIPLE}, got {tuple(image.shape)}."
            )
        skips = []
        x = self._stage(self.down_stages[0], image)
        for step, stage in zip(self.down_steps[:-1], self.down_stages[1:-1], strict=True):
            skips.append(x)
            x = self._stage(stage, step(x))
        skips.append(x)
        x = self._stage(self.down_stages[-1], self.down_steps[-1](x))
        for step, stage in zip(self.up_steps, self.up_stages, strict=True):
            x = self._stage(stage, torch.cat([step(x), skips.pop()], dim=1))
        return self.output(x)

    def _stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        # torch 2.13 on the CPU computes a wrong bfloat16 weight gradient of a convolution whose feature map is smaller
        # than its kernel, as in the deepest stage (8 x 8 x 4 under 5x5x5): infinite or NaN. The forward pass is right.
        is_wrong = torch.is_grad_enabled() and x.device.type == "cpu" and min(x.shape[2:]) < self._kernel_size
        with torch.autocast("cpu", enabled=False) if is_wrong else nullcontext():
            return self._recomputed(stage, x.float() if is_wrong else x)

    def _recomputed(self, stage: nn.Module, x: Tensor) -> Tensor:
        # Batch normalisation would count every batch twice.
        if self.recomputes and self.normalisation != "batch" and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(stage, x, use_reentrant=False))
        return cast(Tensor, stage(x))


def prostate_probability(logits: Tensor) -> Tensor:
    """Softmax voxel by voxel, in float32.

    Args:
        logits: (batch, 2, ...) as `VNet` gives them.

    Returns:
        Probability of the prostate in [0, 1], (batch, ...), float32.
    """
    # The softmax of two channels is the logistic function of their difference: half the memory.
    return torch.sigmoid(logits[:, 1].float() - logits[:, 0].float())
