"""One training on several GPUs or machines: the processes that `torchrun` starts, and what they tell each other."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Clusters set some of them for every job, which then is still alone."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them. By default it is the only one."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The first process writes and reports for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, value: float) -> float:
        """Over all processes."""
        return self._exchange(value / self.count)

    def of_first(self, value: float) -> float:
        """The first process's value, so that all decide alike."""
        return self._exchange(value if self.is_first else 0.0)

    def share_gradients(self, network: nn.Module) -> nn.Module:
        """The network, as it is or such that a backward pass averages the gradients over the processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def _exchange(self, value: float) -> float:
        if self.count == 1:
            return value
        # NCCL takes nothing but tensors on the GPU.
        on_gpu = distributed.get_backend() == "nccl"
        # float64 on both: a time or a loss comes out as it went in.
        tensor: Tensor = torch.tensor(value, dtype=torch.float64, device="cuda" if on_gpu else "cpu")
        distributed.all_reduce(tensor)
        return tensor.item()


@contextlib.contextmanager
def join_processes(device_name: str) -> Iterator[tuple[Processes, str]]:
    """Joins the processes that `torchrun`, or whatever sets all that it sets, started; without it there is one.

    Args:
        device_name: see `device.choose_device`.

    Yields:
        The processes, and the device of this one: of several GPUs each takes its own.
    """
    count = int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _SET_BY_TORCHRUN) else 1
    if count == 1:
        yield Processes(), device_name
        return
    if device_name in ("auto", "cuda") and torch.cuda.is_available():
        device_name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device_name)
    backend = "nccl" if device_name.startswith("cuda") else "gloo"
    # The others wait while the first one reads, writes and evaluates; should it die, torchrun ends them.
    distributed.init_process_group(backend, timeout=timedelta(days=1))
    processes = Processes(distributed.get_rank(), count)
    try:
        yield processes, device_name
        # A process that leaves early may abort the others' last exchange, or itself.
        gc.collect()
        processes.wait()
    finally:
        distributed.destroy_process_group()
