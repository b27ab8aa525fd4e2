"""One look of the network at a crop, on a ladder of ever smaller demands on memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vnet_segmentation.device import Device, best_precision, is_out_of_memory
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.network.vnet import SIDE_MULTIPLE, VNet, prostate_probability

OUT_OF_MEMORY = "The computer ran out of memory. Close other programs, or the browser, and try again."


@dataclass(frozen=True)
class Rung:
    """One way to compute, from the fastest at the top of the ladder to the most frugal at the bottom."""

    device: Device
    tiled: bool
    """In overlapping tiles of two fifths of the crop, one after the other, rather than in one piece."""

    def __str__(self) -> str:
        return f"{self.device.name} in {self.device.precision}{', in tiles' if self.tiled else ''}"


def ladder(device: Device) -> list[Rung]:
    """The ways to compute, in the order in which they are tried: precision, then tiles, then the CPU."""
    rungs = [Rung(device, tiled=False)]
    if device.precision == "float32":
        # A shorter precision that is not at home there, as on processors without bfloat16, needs more memory, not less.
        device = replace(device, precision=best_precision(device.name)[0])
        if device != rungs[0].device:
            rungs.append(Rung(device, tiled=False))
    rungs.append(Rung(device, tiled=True))
    if device.torch_device.type != "cpu":
        cpu = Device("cpu", best_precision("cpu")[0], "The GPU's memory ran out.")
        rungs += [Rung(cpu, tiled=False), Rung(cpu, tiled=True)]
    return rungs


class Predictor:
    """A network that answers on the highest rung that fits into memory, and stays on it.

    Args:
        network: in evaluation mode; it is moved to the device.
        device: where to begin.
    """

    def __init__(self, network: VNet, device: Device) -> None:
        self._network = network
        self._rungs = ladder(device)
        self.steps_down: list[str] = []
        """A sentence for each rung that was left."""

    @property
    def device(self) -> Device:
        """Where the network computes now."""
        return self._rungs[0].device

    def probability(self, crop: Tensor) -> Tensor:
        """Prostate probability of a crop.

        Args:
            crop: (depth, height, width), normalised, sides that are multiples of 16.

        Returns:
            (depth, height, width) in [0, 1], float32, on the CPU.

        Raises:
            UserError: not even the lowest rung fits into memory (`ExitCode.OUT_OF_MEMORY`).
        """
        while True:
            try:
                self._move()
                return self._predict(crop)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(self._rungs) == 1:
                    raise UserError(OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY) from error
            # Outside the handler: while an exception lives, so do the tensors of the frames it holds.
            self._step_down()

    def _step_down(self) -> None:
        left, next_rung = self._rungs[0], self._rungs[1]
        self.steps_down.append(f"Memory ran out on {left}; went on with {next_rung}.")
        del self._rungs[0]
        if left.device.torch_device.type == "cuda":
            self._network.cpu()
            torch.cuda.empty_cache()

    def _move(self) -> None:
        # Where the network is there already, this costs nothing.
        self._network.to(self.device.torch_device)
        self._network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @torch.inference_mode()
    def _predict(self, crop: Tensor) -> Tensor:
        return blend_tiles(crop, self._whole) if self._rungs[0].tiled else self._whole(crop)

    def _whole(self, crop: Tensor) -> Tensor:
        batch = crop[None, None].to(self.device.torch_device).contiguous(memory_format=torch.channels_last_3d)
        with self.device.autocast():
            logits = self._network(batch)
        return prostate_probability(logits)[0].cpu()


def blend_tiles(crop: Tensor, predict: Callable[[Tensor], Tensor], fraction: float = 0.6) -> Tensor:
    """Predictions of overlapping tiles in plane, weighted by the distance to each tile's border.

    Args:
        crop: (depth, height, width); its sides are multiples of 16.
        predict: gives a tile's prediction, of the tile's shape.
        fraction: of the crop's height and width that a tile has, at least a half so that two cover the side.

    Returns:
        The blended prediction, (depth, height, width).
    """
    total, weights = torch.zeros_like(crop), torch.zeros_like(crop)
    _, height, width = crop.shape
    rows, columns = _tile_slices(height, fraction), _tile_slices(width, fraction)
    for row in rows:
        for column in columns:
            tile = predict(crop[:, row, column].contiguous())
            weight = _ramp(row)[:, None] * _ramp(column)
            total[:, row, column] += weight * tile
            weights[:, row, column] += weight
    return total / weights


def _tile_slices(side: int, fraction: float) -> list[slice]:
    tile = min(side, -(-round(side * fraction) // SIDE_MULTIPLE) * SIDE_MULTIPLE)
    return [slice(0, tile)] if tile == side else [slice(0, tile), slice(side - tile, side)]


def _ramp(tile: slice) -> Tensor:
    n = tile.stop - tile.start
    return torch.minimum(torch.arange(1, n + 1), torch.arange(n, 0, -1)).float()
