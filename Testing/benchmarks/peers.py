"""The same work by this program and by its peers, side by side in one run: time, memory and result.

    python Testing/benchmarks/peers.py [--repeats 5] [--device cpu]

A time is the median of the repeats after one warm-up, memory the largest that a process of its own took. The ratio
is what counts: above 1, the peer takes so many times longer.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from peak_memory import peak_memory_gb

from vnet_segmentation.device import Device, choose_device, set_cpu_threads
from vnet_segmentation.images.metrics import compare
from vnet_segmentation.images.phantom import PhantomGrid, make_phantom
from vnet_segmentation.images.preprocessing import Preprocessing, centre_mm, grid_around, prepare
from vnet_segmentation.models.bundle import load_bundle
from vnet_segmentation.models.library import find_model
from vnet_segmentation.segmentation.segmenter import Segmenter
from vnet_segmentation.training.deformation import DeformationSettings, deform, sample_deformation

SCAN = PhantomGrid(size=(320, 320, 24), spacing_mm=(0.625, 0.625, 3.3))
SHAPE = (64, 128, 128)
"""Of a training crop: depth, height, width."""

Work = Callable[[], Any]


def main() -> None:
    """Prints the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peak-memory", metavar="WORK", help="only do this work once and print the peak in GB")
    options = parser.parse_args()
    threads = set_cpu_threads()
    device = choose_device(options.device)
    if options.peak_memory:
        _works(device, options.peak_memory)[options.peak_memory]()
        print(peak_memory_gb())
        return
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "monai", "torchio", "MedPy")]
    processor = platform.processor() or platform.machine()
    print(f"{date.today()}, {processor}, {threads} threads, {', '.join(versions)}.")
    print(f"Device: {device.name} in {device.precision}.\n")
    works = _works(device)
    seconds = _time(works, options.repeats, device)
    print("| work | s | times ours | GB |\n| --- | --- | --- | --- |")
    for name in works:
        ours = next(ours for ours in works if name.split(":")[0] == ours.split(":")[0])
        memory = _peak_memory_of_a_process(name, options.device)
        print(f"| {name} | {seconds[name]:.3f} | {seconds[name] / seconds[ours]:.1f} | {memory} |")
    print(f"\n{_agreement()}")


def _works(device: Device, one: str = "") -> dict[str, Work]:
    """What is timed; of each group, named before the colon, ours comes first. Only the group of `one`, if given."""
    groups: dict[str, Callable[[], dict[str, Work]]] = {
        "segment": lambda: _segmentations(device),
        "deform": _deformations,
        "Dice": _metrics,
    }
    chosen = [group for start, group in groups.items() if one.startswith(start) or not one]
    return {name: work for group in chosen for name, work in group().items()}


def _segmentations(device: Device) -> dict[str, Work]:
    from monai.inferers import sliding_window_inference

    scan, _ = make_phantom(5, SCAN)
    segmenter = Segmenter(find_model(None), device)
    network, description = load_bundle(find_model(None))
    preprocessing = Preprocessing.from_dict(description["preprocessing"])
    prepared = prepare(scan, preprocessing)
    network.to(device.torch_device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    # The whole scan on the network's grid, as a sliding window wants it.
    sides = [n * s for n, s in zip(prepared.GetSize(), prepared.GetSpacing(), strict=True)]
    needed = [round(side / step) for side, step in zip(sides, preprocessing.spacing_mm, strict=True)]
    size = np.maximum(needed, preprocessing.size).tolist()
    grid = grid_around(prepared, centre_mm(prepared), preprocessing.spacing_mm, tuple(size))
    whole = sitk.GetArrayFromImage(sitk.Resample(prepared, grid, sitk.Transform(), sitk.sitkLinear, 0.0))
    volume = torch.from_numpy((whole - whole.mean()) / whole.std()).to(device.torch_device)[None, None]

    def window(batch: torch.Tensor) -> torch.Tensor:
        with device.autocast():
            return network(batch.contiguous(memory_format=torch.channels_last_3d)).float()

    @torch.inference_mode()
    def slide() -> None:
        sliding_window_inference(volume, preprocessing.size[::-1], 1, window, overlap=0.5, mode="gaussian")

    return {
        "segment a scan: two looks at the gland, mask on the scan's grid": lambda: segmenter.segment(scan),
        "segment a scan: MONAI's sliding window, same network, without reading or mask": slide,
    }


def _deformations() -> dict[str, Work]:
    import torchio
    from monai.transforms import Rand3DElasticd

    generator = torch.Generator().manual_seed(0)
    settings = DeformationSettings(bspline_probability=1.0, rotation_degrees=15.0, scaling=0.2, flip_probability=0.5)
    image = torch.randn(SHAPE, generator=generator)
    mask = (image > 1).float()
    both, middle = torch.stack([image, mask]), (torch.tensor(SHAPE[::-1]) - 1) / 2

    def ours() -> None:
        deform(both, middle, SHAPE, sample_deformation(settings, generator), (1.0, 1.0, 1.5))

    subject = torchio.Subject(image=torchio.ScalarImage(tensor=image[None]), mask=torchio.LabelMap(tensor=mask[None]))
    elastic = torchio.Compose([torchio.RandomAffine(0.2, 15), torchio.RandomElasticDeformation(7, 7.5)])
    random = Rand3DElasticd(
        keys=["image", "mask"],
        sigma_range=(13, 13),
        magnitude_range=(80, 80),
        prob=1.0,
        rotate_range=(0.26, 0.26, 0.26),
        scale_range=(0.2, 0.2, 0.2),
        mode=("bilinear", "nearest"),
    )
    return {
        "deform image and mask, 128 x 128 x 64: this program": ours,
        "deform image and mask, 128 x 128 x 64: TorchIO, affine and elastic": lambda: elastic(subject),
        "deform image and mask, 128 x 128 x 64: MONAI, Rand3DElasticd": lambda: random(
            {"image": image[None], "mask": mask[None]}
        ),
    }


def _masks() -> tuple[sitk.Image, sitk.Image]:
    """A mask, and one that lies 4 mm beside it."""
    _, mask = make_phantom(5, SCAN)
    transform = sitk.TranslationTransform(3, (3.0, 2.0, 2.0))
    return mask, sitk.Resample(mask, mask, transform, sitk.sitkNearestNeighbor, 0)


def _metrics() -> dict[str, Work]:
    one, other = _masks()
    return {
        "Dice, HD95 and surface distance: this program, of base and apex, too": lambda: compare(one, other),
        "Dice, HD95 and surface distance: MONAI": lambda: _monai_metrics(one, other),
        "Dice, HD95 and surface distance: MedPy": lambda: _medpy_metrics(one, other),
    }


def _monai_metrics(one: sitk.Image, other: sitk.Image) -> tuple[float, float, float]:
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    a, b = (torch.from_numpy(sitk.GetArrayFromImage(mask))[None, None].float() for mask in (one, other))
    spacing = one.GetSpacing()[::-1]
    dice = compute_dice(a, b)
    hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    distance = compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
    return dice.item(), hd95.item(), distance.item()


def _medpy_metrics(one: sitk.Image, other: sitk.Image) -> tuple[float, float, float]:
    from medpy.metric import binary

    a, b = (sitk.GetArrayFromImage(mask) for mask in (one, other))
    spacing = one.GetSpacing()[::-1]
    return binary.dc(a, b), binary.hd95(a, b, spacing), binary.assd(a, b, spacing)


def _agreement() -> str:
    """What the metrics give for the same two masks."""
    one, other = _masks()
    whole = compare(one, other).whole
    rows = {
        "this program": (whole.dice, whole.hausdorff95_mm, whole.average_boundary_distance_mm),
        "MONAI": _monai_metrics(one, other),
        "MedPy": _medpy_metrics(one, other),
    }
    lines = ["| the same two masks | Dice | HD95 mm | mean surface distance mm |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {dice:.4f} | {hd95:.3f} | {mean:.3f} |" for name, (dice, hd95, mean) in rows.items()]
    return "\n".join(lines)


def _time(works: dict[str, Work], repeats: int, device: Device) -> dict[str, float]:
    """Median seconds of each. In turns, so that what else the machine does falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if device.torch_device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _peak_memory_of_a_process(name: str, device: str) -> str:
    command = [sys.executable, __file__, "--peak-memory", name, "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
