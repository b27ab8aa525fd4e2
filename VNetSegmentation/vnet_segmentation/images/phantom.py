"""A synthetic T2-weighted pelvis with a known prostate: for the demo and for tests, where no patient data may be.

Anatomy in ellipsoids and slabs, deformed by a smooth random field: muscle, fat, bone, bladder, rectum and a prostate
with a bright peripheral zone and a nodular transition zone. Then what a scanner adds: thick slices, an oblique grid,
a bias field and Rician noise. Trainings keep phantoms in their caches: whoever changes what comes out here raises
`training.cache._FORMAT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Array = NDArray[np.float32]

# T2-weighted brightness relative to fluid. Roughly what 3 T turbo spin echo shows.
_AIR, _MUSCLE, _BONE, _FAT, _FLUID = 0.02, 0.20, 0.45, 0.62, 1.0
_CAPSULE, _TRANSITION_ZONE, _PERIPHERAL_ZONE, _RECTAL_WALL = 0.22, 0.38, 0.72, 0.30
_SUB_SLICES = 3
"""Points per voxel through the slice: thick slices blur what they cut obliquely."""


@dataclass(frozen=True)
class PhantomGrid:
    """The scan's grid; axis order x, y, z."""

    size: tuple[int, int, int] = (256, 256, 24)
    spacing_mm: tuple[float, float, float] = (0.7, 0.7, 3.3)
    tilt_degrees: float = 12.0
    """Rotation of the slices about the left-right axis, as radiologists angle them to the rectal wall."""


def make_phantom(seed: int, grid: PhantomGrid | None = None) -> tuple[sitk.Image, sitk.Image]:
    """A synthetic scan and its true mask.

    Args:
        seed: the same seed and grid give the same volume.

    Returns:
        The scan, float32, and the mask, uint8 of 0 and 1, on one oblique, anisotropic grid.
    """
    grid = grid or PhantomGrid()
    random = np.random.default_rng(seed)
    anatomy = _Anatomy(random)
    reference = _empty_scan(grid, random)

    brightness = np.zeros(grid.size[::-1], np.float32)
    coverage = np.zeros_like(brightness)
    for sub_slice in range(_SUB_SLICES):
        offset = (sub_slice + 0.5) / _SUB_SLICES - 0.5
        tissue, prostate = anatomy.at(_Lattice.of_voxels(reference, offset))
        brightness += tissue / _SUB_SLICES
        coverage += prostate / _SUB_SLICES

    shape = brightness.shape
    bias = np.exp(0.35 * _smooth_noise(shape, 3, random))
    noise_deviation = random.uniform(0.01, 0.04)
    signal = brightness * bias
    noisy = np.hypot(signal + random.normal(0, noise_deviation, shape), random.normal(0, noise_deviation, shape))
    scan = sitk.GetImageFromArray((noisy * random.uniform(300, 1200)).astype(np.float32))
    mask = sitk.GetImageFromArray((coverage >= 0.5).astype(np.uint8))
    scan.CopyInformation(reference)
    mask.CopyInformation(reference)
    return scan, mask


class _Anatomy:
    """Shapes around the prostate's centre at the origin: x to the left, y to the back, z to the head, in mm."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random_state = random.integers(2**31)
        # Semi-axes of glands of about 20 to 110 ml: (4/3) pi a b c.
        scale = random.uniform(0.85, 1.45)
        # Plain floats: numpy's own would turn the arrays they meet into float64.
        self.prostate_mm = (np.array([25.0, 18.0, 21.0]) * scale * random.uniform(0.9, 1.1, 3)).tolist()
        self.bladder_mm = (np.array([38.0, 30.0, 26.0]) * random.uniform(0.6, 1.3)).tolist()
        self.rectum_radius_mm = random.uniform(9, 18)
        self.rectum_content = float(random.choice([_AIR, _MUSCLE, _BONE, 0.7]))
        self.bladder_content = random.uniform(0.8, 1.0) * _FLUID
        self.fat = _FAT * random.uniform(0.85, 1.3)
        self.zone_offset = random.uniform(0.15, 0.4)
        self.peripheral = _PERIPHERAL_ZONE * random.uniform(0.7, 1.2)
        self.transition = _TRANSITION_ZONE * random.uniform(0.8, 1.3)

    def at(self, lattice: _Lattice) -> tuple[Array, Array]:
        """Brightness and prostate membership (0 or 1), (depth, height, width)."""
        # One state for all sub-slices: they cut the same patient.
        random = np.random.default_rng(self.random_state)
        waves = _Waves(random, wavelength_mm=55, n_waves=10)
        x, y, z = (lattice.coordinate(axis) + np.float32(3.5) * waves.at(lattice, axis) for axis in range(3))
        a, b, c = self.prostate_mm

        coarse = _Waves(random, wavelength_mm=14, n_waves=24).at(lattice, 0)
        fine = _Waves(random, wavelength_mm=5, n_waves=32).at(lattice, 0)
        tissue = np.full(x.shape, _AIR, np.float32)

        def paint(where: NDArray[np.bool_], value: float | Array) -> None:
            np.copyto(tissue, np.asarray(value, np.float32), where=where)

        paint(_ellipsoid(x, y - 10, z, 175, 120, 1e4) <= 1, self.fat)
        paint(_ellipsoid(x, y - 5, z, 155, 95, 1e4) <= 1, _MUSCLE)
        paint(_ellipsoid(np.abs(x) - 95, y, z - 15, 27, 27, 30) <= 1, _BONE)
        # The pelvic cavity: fat between the obturator muscles, narrowing towards the floor.
        cavity = a + 24 + 0.15 * z
        paint((np.abs(x) < cavity) & (np.abs(y - 5) < b + 38), self.fat)
        paint((np.abs(x) < 9) & (np.abs(y + b + 24) < 11) & (z < 12), _BONE * 0.7)
        # Levator ani: a sling beside the apex.
        paint((np.abs(np.abs(x) - (a + 7 + 0.12 * z)) < 3) & (y > -b) & (y < b + 22) & (z < 0.4 * c), _MUSCLE)
        bladder = _ellipsoid(x, y + 6, z - c - 0.72 * self.bladder_mm[2], *self.bladder_mm)
        paint(bladder <= 1.18, _MUSCLE * 1.2)
        paint(bladder <= 1, self.bladder_content)
        rectum_distance = np.hypot(x, y - b - self.rectum_radius_mm - 4)
        paint(rectum_distance < self.rectum_radius_mm + 3, _RECTAL_WALL)
        paint(rectum_distance < self.rectum_radius_mm - 1, self.rectum_content)
        # Seminal vesicles behind the base, and the membranous urethra below the apex.
        paint(_ellipsoid(np.abs(x) - 15, y - 0.75 * b, z - c - 5, 17, 6, 7) <= 1, 0.85 + 0.3 * coarse)
        paint((np.hypot(x, y + 2) < 6) & (z < -0.9 * c), _MUSCLE * 1.3)

        # The apex is narrower than the base, and the back is flatter than the front.
        taper = 1 + 0.22 * np.clip(z / c, -1, 1)
        gland = _ellipsoid(x / taper, np.where(y > 0, y * 1.12, y * 0.95), z, a, b, c)
        prostate = gland <= 1
        paint(prostate, self.peripheral * (1 + 0.25 * coarse))
        inner = _ellipsoid(x, y + self.zone_offset * b, z - 0.1 * c, 0.74 * a, 0.74 * b, 0.82 * c)
        paint(prostate & (inner <= 1), self.transition * (1 + 0.75 * coarse))
        paint(prostate & (inner > 0.9) & (inner <= 1.05), _CAPSULE * 1.2)
        paint(prostate & (gland > 0.93), _CAPSULE)
        paint(prostate & (np.hypot(x, y + 0.25 * b) < 2.5), 0.8)
        return tissue * (1 + 0.12 * fine).astype(np.float32), prostate.astype(np.float32)


@dataclass(frozen=True)
class _Lattice:
    """Patient coordinates of voxels, as the sum of what each index contributes."""

    origin_mm: NDArray[np.float64]
    steps_mm: tuple[NDArray[np.float64], ...]
    """For each index (x, y, z) of the voxels its contribution, (n, 3)."""

    @staticmethod
    def of_voxels(scan: sitk.Image, slice_offset: float) -> _Lattice:
        """Shifted by a fraction of a slice."""
        axes = np.array(scan.GetDirection()).reshape(3, 3) * np.array(scan.GetSpacing())
        steps = (np.outer(np.arange(n), axis) for n, axis in zip(scan.GetSize(), axes.T, strict=True))
        return _Lattice(np.array(scan.GetOrigin()) + slice_offset * axes[:, 2], tuple(steps))

    def coordinate(self, axis: int) -> Array:
        """(depth, height, width), in mm."""
        x, y, z = (steps[:, axis].astype(np.float32) for steps in self.steps_mm)
        return x + y[:, None] + (z + np.float32(self.origin_mm[axis]))[:, None, None]


class _Waves:
    """Smooth noise of unit variance: a sum of cosines of random direction and phase."""

    def __init__(self, random: np.random.Generator, wavelength_mm: float, n_waves: int) -> None:
        directions = random.normal(size=(3, n_waves, 3))
        lengths = wavelength_mm * random.uniform(0.7, 1.6, (3, n_waves, 1))
        self.wave_vectors = 2 * math.pi * directions / np.linalg.norm(directions, axis=-1, keepdims=True) / lengths
        self.phases = random.uniform(0, 2 * math.pi, (3, n_waves))

    def at(self, lattice: _Lattice, component: int) -> Array:
        """(depth, height, width). On a lattice a wave is a product of one factor per index, and their sum a product of
        matrices: a tenth of the time that the cosines take."""
        vectors, phases = self.wave_vectors[component], self.phases[component]
        x, y, z = (np.exp(1j * steps @ vectors.T).astype(np.complex64) for steps in lattice.steps_mm)
        z = z * np.exp(1j * (vectors @ lattice.origin_mm + phases)).astype(np.complex64)
        slices = z[:, None] * y
        total = slices.real @ x.real.T - slices.imag @ x.imag.T
        return total * np.float32(math.sqrt(2 / len(phases)))


def _ellipsoid(x: Array, y: Array, z: Array, a: float, b: float, c: float) -> Array:
    """Squared distance from the centre, 1 on the surface."""
    return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2


def _empty_scan(grid: PhantomGrid, random: np.random.Generator) -> sitk.Image:
    angle = math.radians(grid.tilt_degrees)
    scan = sitk.Image(list(grid.size), sitk.sitkUInt8)
    scan.SetSpacing(grid.spacing_mm)
    direction = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    scan.SetDirection(direction.ravel().tolist())
    # The gland lies near the middle of the field of view, as technicians plan it, and not exactly there.
    middle = (np.array(grid.size) - 1) / 2 * np.array(grid.spacing_mm)
    scan.SetOrigin((random.uniform(-8, 8, 3) - direction @ middle).tolist())
    return scan


def _smooth_noise(shape: tuple[int, ...], n_nodes: int, random: np.random.Generator) -> Array:
    """Noise of unit variance on `n_nodes` nodes per axis, interpolated to `shape`."""
    nodes = random.normal(size=(n_nodes,) * 3).astype(np.float32)
    along_z, along_y, along_x = (_spline_weights(n_nodes, n) for n in shape)
    # Axis by axis: a spline in three dimensions would take 64 products per voxel.
    smooth: Array = np.einsum("abc,az,by->zyc", nodes, along_z, along_y, optimize=True) @ along_x
    return smooth


def _spline_weights(n_nodes: int, n: int) -> Array:
    """What each node, (n_nodes, n), contributes to `n` points from the first node to the last."""
    spacing = [(n_nodes - 1) / max(n - 1, 1), 1.0]
    single = sitk.GetImageFromArray(np.eye(n_nodes, dtype=np.float32))
    identity = np.eye(2).ravel().tolist()
    weights = sitk.Resample(
        single, [n, n_nodes], sitk.Transform(2, sitk.sitkIdentity), sitk.sitkBSpline, [0.0] * 2, spacing, identity, 0.0
    )
    return sitk.GetArrayFromImage(weights)
