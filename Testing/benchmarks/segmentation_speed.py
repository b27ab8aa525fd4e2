"""Speed and memory of a segmentation, beside MONAI's V-Net in the same run.

    python Testing/benchmarks/segmentation_speed.py [--repeats 5]

A figure is the median of the repeats after one warm-up. The ratio to the peer is what counts: it says the same on
another machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from peak_memory import peak_memory_gb

from vnet_segmentation.device import Device, choose_device, set_cpu_threads
from vnet_segmentation.images.phantom import PhantomGrid, make_phantom
from vnet_segmentation.models.bundle import load_bundle
from vnet_segmentation.models.library import find_model
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.segmentation.segmenter import Segmenter

PAPER_SHAPE = (1, 1, 64, 128, 128)
"""128 x 128 x 96 mm in voxels of 1 x 1 x 1.5 mm."""
SCAN_GRID = PhantomGrid(size=(384, 384, 20), spacing_mm=(0.5, 0.5, 3.0))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peak-memory", action="store_true", help="only segment once and print the peak in GB")
    options = parser.parse_args()
    threads = set_cpu_threads()
    device = choose_device(options.device)
    if options.peak_memory:
        _segment_once(device)
        print(peak_memory_gb())
        return

    print(f"{date.today()}, {platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}")
    print(f"Device: {device.name} in {device.precision}. {device.reason}\n")
    peer = _time(_monai_forward(device), options.repeats, device)
    narrow = _time(_forward(VNet("paper", 8, "instance"), PAPER_SHAPE, device), options.repeats, device)
    same = _time(_forward(VNet("monai", 16, "batch"), PAPER_SHAPE, device), options.repeats, device)
    network, description = load_bundle(find_model(None))
    x, y, z = description["preprocessing"]["size"]
    bundled = _time(_forward(network, (1, 1, z, y, x), device), options.repeats, device)
    what = f"bundled: {network.layout}, width {network.width}, {x} x {y} x {z}, {device.precision}"
    print(f"{'forward of one 128 x 128 x 64 volume':58}{'s':>8}{'ratio':>8}")
    print(f"{'MONAI VNet, width 16, float32, as it comes':58}{peer:8.2f}{1:8.1f}")
    print(f"{f'layout paper, width 8, {device.precision}':58}{narrow:8.2f}{peer / narrow:8.1f}")
    print(f"{f'layout monai, width 16, {device.precision}':58}{same:8.2f}{peer / same:8.1f}")
    print(f"{what:58}{bundled:8.2f}{peer / bundled:8.1f}\n")

    scan, _ = make_phantom(0, SCAN_GRID)
    segmenter = Segmenter(find_model(None), device)
    stages: list[dict[str, float]] = []
    whole = _time(lambda: stages.append(segmenter.segment(scan).report["seconds"]), options.repeats, device)
    print(f"segment a {' x '.join(map(str, SCAN_GRID.size))} scan, model loaded: {whole:.2f} s")
    for stage in stages[-1]:
        print(f"    {stage:10} {statistics.median(seconds[stage] for seconds in stages):.2f} s")
    print(f"peak memory of a process that loads the model and segments it: {_peak_memory_of_a_process(options)} GB")


def _time(function: Callable[[], object], repeats: int, device: Device) -> float:
    """Median seconds of a call, warm."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _forward(network: VNet, shape: tuple[int, ...], device: Device) -> Callable[[], object]:
    network.eval().to(device.torch_device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    volume = torch.randn(shape, device=device.torch_device).to(memory_format=torch.channels_last_3d)

    def forward() -> object:
        with torch.inference_mode(), device.autocast():
            return network(volume)

    return forward


def _monai_forward(device: Device) -> Callable[[], object]:
    from monai.networks.nets import VNet as MonaiVNet

    network = MonaiVNet(spatial_dims=3, in_channels=1, out_channels=2).eval().to(device.torch_device)
    volume = torch.randn(PAPER_SHAPE, device=device.torch_device)

    def forward() -> object:
        with torch.inference_mode():
            return network(volume)

    return forward


def _segment_once(device: Device) -> None:
    Segmenter(find_model(None), device).segment(make_phantom(0, SCAN_GRID)[0])


def _peak_memory_of_a_process(options: argparse.Namespace) -> str:
    command = [sys.executable, __file__, "--peak-memory", "--device", options.device]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
