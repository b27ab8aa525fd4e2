"""Training samples in batches that never wait for the GPU: what `augmentation` makes one at a time.

There, each sample is drawn on the CPU, and only what it needs is computed. Here all that is random comes in as tensors
of numbers, every change is computed for every sample, and where it is off it does nothing: the same operations in the
same order each time, on the GPU alone, as a CUDA graph needs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vnet_segmentation.training.appearance import N_QUANTILES
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.deformation import N_COEFFICIENTS, bspline_basis
from vnet_segmentation.training.recipe import Recipe

N_UNIFORM, N_NORMAL = 40, 3 * N_COEFFICIENTS**3
"""Random numbers of a sample, the last few uniform ones unused."""
_BOXES = ((2, 1, 1), (3, 1, 1), (1, 2, 2))
"""(z, y, x): what `blur` 1, 2 and 3 average over."""
_BEYOND = 1e30


@dataclass(frozen=True)
class CaseTable:
    """Cases on the device, one behind the other; axis order of points x, y, z."""

    volumes: Tensor
    """(cases, 2, depth, height, width), float32: image and the gland's share, padded with 0 behind each axis's end."""
    sizes: Tensor
    """(cases, 3), float32, without the padding, in voxels."""
    gland_centres: Tensor
    """(cases, 3), in voxels."""
    quantiles: Tensor
    """(cases, `N_QUANTILES`)."""

    @staticmethod
    def of(cases: Sequence[TrainingCase], device: torch.device) -> CaseTable:
        """The cases in their order."""
        shape = [max(case.image.shape[axis] for case in cases) for axis in range(3)]
        volumes = torch.zeros(len(cases), 2, *shape, device=device)
        for volume, case in zip(volumes, cases, strict=True):
            depth, height, width = case.image.shape
            volume[:, :depth, :height, :width] = case.volumes(device)
        return CaseTable(
            volumes,
            torch.tensor([case.image.shape[::-1] for case in cases], dtype=torch.float32, device=device),
            torch.stack([case.gland_centre for case in cases]).to(device),
            torch.stack([case.quantiles for case in cases]).to(device),
        )


@dataclass(frozen=True)
class SampleParameters:
    """What is random about the samples of a batch; the first axis is the batch's. See `Sample`, `Deformation` and
    `Appearance` of the program for the meanings, which are the same."""

    case: Tensor
    """Numbers in the `CaseTable`."""
    centre_voxels: Tensor
    coefficients: Tensor
    """(batch, 2, 5, 5, 5), in plane; 0 for no deformation."""
    matrix: Tensor
    matches_histogram: Tensor
    matched_quantiles: Tensor
    gamma: Tensor
    bias_coefficients: Tensor
    """(batch, 1, 5, 5, 5); 0 for no bias."""
    coil_gain: Tensor
    coil_position: Tensor
    coil_radius: Tensor
    noise_sigma: Tensor
    blur: Tensor
    """0 for none, else the number of the box in `_BOXES`, from 1."""


class BatchMaker:
    """Draws and makes samples of one shape.

    All that has to be copied to the device is copied here, once: in a CUDA graph nothing can be. What one model has and
    another has not is in the values of tensors, not in their shapes: compiled once, it serves all of them.

    Args:
        table: of the cases and phantoms.
        cases: numbers in the table of those to learn from.
        synthetic: of the phantoms.
        shape: (depth, height, width) of the crops.
    """

    def __init__(
        self,
        recipe: Recipe,
        table: CaseTable,
        cases: Sequence[int],
        synthetic: Sequence[int],
        shape: tuple[int, int, int],
    ) -> None:
        device = table.volumes.device
        self.recipe, self.table, self.shape = recipe, table, shape
        unused = len(table.volumes) - len(cases)
        self._cases = torch.tensor([*cases, *[cases[0]] * unused], device=device)
        self._n_cases = torch.tensor(len(cases), device=device)
        self._synthetic = torch.tensor(synthetic or cases, device=device)
        self._synthetic_probability = recipe.synthetic_probability if synthetic else 0.0
        self._spacing = torch.tensor(recipe.preprocessing.spacing_mm, device=device)
        self._jitter = torch.tensor(recipe.centre_jitter_mm, device=device) / self._spacing
        self._last_padded = torch.tensor(table.volumes.shape[:1:-1], dtype=torch.float32, device=device) - 1
        self._basis = [bspline_basis(n).float().to(device) for n in shape]
        self._axes = [(torch.arange(n) - (n - 1) / 2).to(device) for n in shape]
        self._steps = torch.arange(N_QUANTILES, device=device)
        self._turns = [tuple(part.to(device) for part in _turn(*axes)) for axes in ((1, 2), (2, 0), (0, 1))]

    def __call__(self, uniform: Tensor, normal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws and makes a batch; see both."""
        return self.make(self.draw(uniform, normal), noise)

    def draw(self, uniform: Tensor, normal: Tensor) -> SampleParameters:
        """As `augmentation.draw_sample` draws.

        Args:
            uniform: (batch, `N_UNIFORM`), in [0, 1).
            normal: (batch, `N_NORMAL`), standard normal.
        """
        recipe, table = self.recipe, self.table
        numbers = iter(uniform.unbind(1))
        one = torch.ones_like(uniform[:, 0])

        def between(low: float, high: float) -> Tensor:
            return low + (high - low) * next(numbers)

        def vector(*ranges: tuple[float, float]) -> Tensor:
            return torch.stack([between(*limits) for limits in ranges], 1)

        def happens(probability: float) -> Tensor:
            return next(numbers) < probability

        def own_case() -> Tensor:
            return self._cases[(next(numbers) * self._n_cases).long()]

        own, phantom = own_case(), self._synthetic[(next(numbers) * len(self._synthetic)).long()]
        case = torch.where(happens(self._synthetic_probability), phantom, own)
        is_anywhere = happens(recipe.anywhere_probability)[:, None]
        anywhere = vector((0, 1), (0, 1), (0, 1)) * (table.sizes[case] - 1)
        near = table.gland_centres[case] + vector((-1, 1), (-1, 1), (-1, 1)) * self._jitter

        deformation, n = recipe.deformation, N_COEFFICIENTS
        bends = happens(deformation.bspline_probability).float().reshape(-1, 1, 1, 1, 1)
        coefficients = deformation.bspline_sigma_mm * bends * normal[:, : 2 * n**3].reshape(-1, 2, n, n, n)
        angles = vector((-1, 1), (-1, 1), (-1, 1)) * math.radians(deformation.rotation_degrees)
        x, y, z = (1 + vector((-1, 1), (-1, 1), (-1, 1)) * deformation.scaling).unbind(1)
        x = torch.where(happens(deformation.flip_probability), -x, x)

        appearance = recipe.appearance
        has_bias = happens(appearance.bias_field_probability).float().reshape(-1, 1, 1, 1)
        bias = appearance.bias_field_sigma * has_bias * normal[:, 2 * n**3 :].reshape(-1, n, n, n)
        gamma = (between(-1, 1) * appearance.gamma_log_range).exp()
        gain, sigma = between(1, appearance.coil_gain), between(0, appearance.noise_sigma)
        box = torch.where(happens(0.5), torch.where(happens(0.5), one, 2 * one), 3 * one)
        return SampleParameters(
            case=case,
            centre_voxels=torch.where(is_anywhere, anywhere, near),
            coefficients=coefficients,
            matrix=self._rotations(angles) @ torch.diag_embed(torch.stack([x, y, z], 1)),
            matches_histogram=happens(appearance.histogram_matching_probability),
            matched_quantiles=table.quantiles[own_case()],
            gamma=torch.where(happens(appearance.gamma_probability), gamma, one),
            bias_coefficients=bias,
            coil_gain=torch.where(happens(appearance.coil_probability), gain, one),
            coil_position=vector((-0.1, 0.1), (0.1, 0.35), (-0.15, 0.15)),
            coil_radius=between(0.12, 0.3),
            noise_sigma=torch.where(happens(appearance.noise_probability), sigma, 0 * one),
            blur=torch.where(happens(appearance.blur_probability), box, 0 * one),
        )

    def make(self, p: SampleParameters, noise: Tensor) -> tuple[Tensor, Tensor]:
        """As `augmentation.make_sample` makes them, but for the percentiles, which are taken of other voxels.

        Args:
            noise: (batch, depth, height, width), standard normal.

        Returns:
            Images and the gland's shares, both (batch, depth, height, width), float32.
        """
        image, share, inside = self._crop(p)
        matched = self._match_histograms(image, p)
        image = torch.where(_each(p.matches_histogram), matched, image)
        low = torch.where(inside, image, _BEYOND).amin((1, 2, 3))
        high = torch.where(inside, image, -_BEYOND).amax((1, 2, 3))
        image = ((image - _each(low)) / _each((high - low).clamp(min=1e-12))).clamp(0, 1) ** _each(p.gamma)
        image = image * self._field(p.bias_coefficients).exp() * self._coil_field(p)
        for number, box in enumerate(_BOXES, start=1):
            pooled = functional.avg_pool3d(image[:, None], box, box, ceil_mode=True, count_include_pad=False)
            blurred = functional.interpolate(pooled, size=self.shape, mode="trilinear", align_corners=False)[:, 0]
            image = torch.where(_each(p.blur == number), blurred, image)
        image = image + noise * _each(p.noise_sigma * _mean_and_deviation(image, inside)[1])
        return _normalise(image, inside, self.recipe.preprocessing.clip_percentiles), share

    def _crop(self, p: SampleParameters) -> tuple[Tensor, Tensor, Tensor]:
        """Images, shares and what lies inside the scans; as `deformation.deform`."""
        matrix = p.matrix * self._spacing / self._spacing[:, None]
        z, y, x = self._axes
        sizes = self.table.sizes[p.case]
        coordinates, inside = [], torch.ones_like(p.case, dtype=torch.bool)[:, None, None, None]
        for i in range(3):
            position = (
                x * _each(matrix[:, i, 0])
                + y[:, None] * _each(matrix[:, i, 1])
                + z[:, None, None] * _each(matrix[:, i, 2])
                + _each(p.centre_voxels[:, i])
            )
            if i < 2:
                position = position + self._field(p.coefficients[:, i]) / self._spacing[i]
            inside = inside & (position >= 0) & (position <= _each(sizes[:, i] - 1))
            coordinates.append(2 * position / self._last_padded[i] - 1)
        sampled = functional.grid_sample(
            self.table.volumes[p.case], torch.stack(coordinates, -1), padding_mode="zeros", align_corners=True
        )
        return sampled[:, 0], sampled[:, 1], inside

    def _field(self, coefficients: Tensor) -> Tensor:
        """As `deformation.displacement_field`: (batch, 5, 5, 5) to (batch, depth, height, width)."""
        basis_z, basis_y, basis_x = self._basis
        field = torch.einsum("bkji,xi->bkjx", coefficients, basis_x)
        field = torch.einsum("bkjx,yj->bkyx", field, basis_y)
        return torch.einsum("bkyx,zk->bzyx", field, basis_z)

    def _rotations(self, angles: Tensor) -> Tensor:
        """(batch, 3) about x, y and z to (batch, 3, 3)."""
        matrices = []
        for (still, along, across), angle in zip(self._turns, angles.unbind(1), strict=True):
            angle = angle[:, None, None]
            matrices.append(still + angle.cos() * along + angle.sin() * across)
        return matrices[0] @ matrices[1] @ matrices[2]

    def _match_histograms(self, image: Tensor, p: SampleParameters) -> Tensor:
        source, target = self.table.quantiles[p.case], p.matched_quantiles
        smallest = source[:, :1]
        values, source = (image.reshape(len(image), -1) - smallest).contiguous(), source - smallest
        knots = (source + source[:, -1:].clamp(min=1e-12) * 1e-6 * self._steps).contiguous()
        index = torch.searchsorted(knots, values).clamp(1, N_QUANTILES - 1)
        low, high = knots.gather(1, index - 1), knots.gather(1, index)
        fraction = ((values - low) / (high - low)).clamp(0, 1)
        return torch.lerp(target.gather(1, index - 1), target.gather(1, index), fraction).view_as(image)

    def _coil_field(self, p: SampleParameters) -> Tensor:
        z, y, x = self._axes
        square: Tensor | float = 0.0
        for axis, along in enumerate((x, y[:, None], z[:, None, None])):
            distance = along - _each(p.coil_position[:, axis]) * self.shape[2 - axis]
            square = square + (distance / (_each(p.coil_radius) * self.shape[2])) ** 2
        return 1 + _each(p.coil_gain - 1) * torch.exp(-square / 2)


def _turn(i: int, j: int) -> tuple[Tensor, Tensor, Tensor]:
    """A rotation from axis i to j is the first, plus the second times its cosine, plus the third times its sine."""
    still, along, across = torch.eye(3), torch.zeros(3, 3), torch.zeros(3, 3)
    still[i, i] = still[j, j] = 0
    along[i, i] = along[j, j] = 1
    across[i, j], across[j, i] = -1, 1
    return still, along, across


def _each(values: Tensor) -> Tensor:
    """(batch,) as (batch, 1, 1, 1)."""
    return values[:, None, None, None]


def _mean_and_deviation(image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Of the voxels inside the scan, each (batch,)."""
    n = inside.sum((1, 2, 3)).float().clamp(min=2)
    mean = torch.where(inside, image, 0.0).sum((1, 2, 3)) / n
    squares = torch.where(inside, (image - _each(mean)) ** 2, 0.0).sum((1, 2, 3))
    return mean, (squares / (n - 1)).sqrt()


def _normalise(image: Tensor, inside: Tensor, clip_percentiles: tuple[float, float]) -> Tensor:
    """As `preprocessing.normalise`; of every seventh voxel of the crop, those inside give the percentiles."""
    ordered = torch.where(inside, image, _BEYOND).reshape(len(image), -1)[:, ::7].sort(1).values
    last = inside.reshape(len(image), -1)[:, ::7].sum(1).clamp(min=1) - 1
    low, high = (
        ordered.gather(1, (percentile / 100 * last).round().long()[:, None])[:, 0] for percentile in clip_percentiles
    )
    image = torch.minimum(torch.maximum(image, _each(low)), _each(high))
    mean, deviation = _mean_and_deviation(image, inside)
    known = inside & _each(deviation > 1e-6)
    return torch.where(known, (image - _each(mean)) / _each(deviation.clamp(min=1e-12)), 0.0)
