"""Where a training crop is taken from, and how space is bent: a sampler of parameters, and the transform they give.

The B-spline deformation is the one of Milletari et al., 3DV 2016, section 4, as their code does it: the paper says
"2x2x2 grid of control points", which a cubic B-spline cannot have; the code has a mesh of 2 elements per axis, so
5x5x5 coefficients, drawn from a normal distribution, the component through the plane 0. Their 15 voxels of 1 mm are
15 mm here, so that a recipe means the same on any grid. The rotation, scaling and left-right flip are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

N_COEFFICIENTS = 5
"""Coefficients per axis of a cubic B-spline over 2 elements."""


@dataclass(frozen=True)
class DeformationSettings:
    """What `sample_deformation` draws from."""

    bspline_probability: float = 0.5
    """A smooth bend, of a B-spline with 5 coefficients along each axis."""
    bspline_sigma_mm: float = 15.0
    """Standard deviation of the coefficients."""
    rotation_degrees: float = 0.0
    """Largest angle about each axis."""
    scaling: float = 0.0
    """Largest relative change of size, along each axis by itself: 0.1 for 10 %."""
    flip_probability: float = 0.0
    """Left to right. The prostate is nearly symmetrical in that direction, and in no other."""


@dataclass(frozen=True)
class Deformation:
    """Parameters of one deformation. Axis order x, y, z."""

    coefficients: Tensor
    """(3, 5, 5, 5): B-spline coefficients of the displacement in mm, axes (component, z, y, x)."""
    matrix: Tensor
    """(3, 3): from positions in the crop to positions in the volume, both relative to the crop's centre."""


def sample_deformation(settings: DeformationSettings, generator: torch.Generator) -> Deformation:
    """Draws a deformation; the same generator state gives the same one. Tensors are float32 on the CPU."""
    coefficients = torch.zeros(3, *[N_COEFFICIENTS] * 3)
    if _uniform(generator, 0, 1) < settings.bspline_probability:
        coefficients[:2] = settings.bspline_sigma_mm * torch.randn(2, *[N_COEFFICIENTS] * 3, generator=generator)
    angles = [math.radians(_uniform(generator, -1, 1) * settings.rotation_degrees) for _ in range(3)]
    scales = [1 + _uniform(generator, -1, 1) * settings.scaling for _ in range(3)]
    if _uniform(generator, 0, 1) < settings.flip_probability:
        scales[0] = -scales[0]
    return Deformation(coefficients, _rotation(*angles) @ torch.diag(torch.tensor(scales)))


def displacement_field(coefficients: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The dense field of a cubic B-spline over 2 elements per axis.

    Args:
        coefficients: (3, 5, 5, 5), axes (component, z, y, x).
        shape: (depth, height, width) of the field; the mesh spans it from the first voxel to the last.

    Returns:
        (depth, height, width, 3), in the coefficients' unit; the last axis is (x, y, z).
    """
    basis_z, basis_y, basis_x = (bspline_basis(n).to(coefficients) for n in shape)
    # Separable: one axis after the other costs a hundredth of the dense product.
    field = torch.einsum("ckji,xi->ckjx", coefficients, basis_x)
    field = torch.einsum("ckjx,yj->ckyx", field, basis_y)
    return torch.einsum("ckyx,zk->zyxc", field, basis_z)


def deform(
    volumes: Tensor,
    centre_voxels: Tensor,
    shape: tuple[int, int, int],
    deformation: Deformation | None,
    spacing_mm: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """A deformed crop of several volumes on one grid, linearly interpolated, zero outside.

    Args:
        volumes: (channels, depth, height, width), float32.
        centre_voxels: (x, y, z) of the crop's centre, in voxels of the volumes.
        shape: (depth, height, width) of the crop.
        deformation: it acts in mm, so that an anisotropic grid is not sheared. None: a plain crop.
        spacing_mm: (x, y, z).

    Returns:
        The crop, (channels, depth, height, width); and where it lies inside the volumes, bool.
    """
    device = volumes.device
    spacing = torch.tensor(spacing_mm, device=device)
    deformation = deformation or Deformation(torch.zeros(3, *[N_COEFFICIENTS] * 3), torch.eye(3))
    matrix = deformation.matrix.to(device) * spacing / spacing[:, None]
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in shape]
    z, y, x = (axis.float() for axis in axes)
    # Row vectors: position = matrix @ (x, y, z), built by broadcasting.
    position = (
        x[None, None, :, None] * matrix[:, 0]
        + y[None, :, None, None] * matrix[:, 1]
        + z[:, None, None, None] * matrix[:, 2]
    )
    if deformation.coefficients.any():
        position = position + displacement_field(deformation.coefficients.to(device), shape) / spacing
    size = torch.tensor(volumes.shape[:0:-1], device=device, dtype=torch.float32)
    position = position + centre_voxels.to(device)
    # grid_sample's coordinates with align_corners: -1 and 1 at the first and last voxel's centre.
    coordinates = 2 * position / (size - 1).clamp(min=1) - 1
    inside = (coordinates.abs() <= 1).all(-1)
    sampled = functional.grid_sample(
        volumes[None], coordinates[None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return sampled[0], inside


def bspline_basis(n_voxels: int) -> Tensor:
    """(n_voxels, 5): weight of each coefficient at each voxel along one axis; rows sum to 1."""
    position = torch.linspace(0, N_COEFFICIENTS - 3, n_voxels, dtype=torch.float64)
    # Coefficient i has its peak at position i - 1: one lies before the first node and one after the last.
    distance = (position[:, None] - (torch.arange(N_COEFFICIENTS) - 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _rotation(about_x: float, about_y: float, about_z: float) -> Tensor:
    matrix = torch.eye(3)
    for (i, j), angle in zip(((1, 2), (2, 0), (0, 1)), (about_x, about_y, about_z), strict=True):
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
