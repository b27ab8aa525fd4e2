"""Which processor computes, in which precision, and why."""

from __future__ import annotations

import contextlib
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from vnet_segmentation.errors import ExitCode, UserError

DEVICE_CHOICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# torch has a class for CUDA only. The messages are of torch on the CPU and on MPS, C++, cuDNN, and ITK.
_OUT_OF_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "alloc_failed",
    "failed to allocate memory",
)


@dataclass(frozen=True)
class Device:
    """A processor, the precision the network computes in there, and the reason for both, as a sentence."""

    name: str
    precision: str
    reason: str

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.name)

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the network computes in `precision`; weights stay as they are."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device.type, PRECISIONS[self.precision])


def choose_device(name: str = "auto", precision: str = "auto") -> Device:
    """The device to compute on.

    Args:
        name: "auto" takes CUDA, else the CPU; "cpu", "cuda", "cuda:1", "mps" insist. MPS is only taken by name:
            its Conv3d fails or is slow in many versions of torch.
        precision: "auto" takes what is fast and accurate there; "float32", "bfloat16", "float16" insist.

    Raises:
        UserError: the device that was asked for is not there (`ExitCode.USAGE`).
    """
    kind = name.partition(":")[0]
    if name not in DEVICE_CHOICES and not re.fullmatch(r"cuda:\d{1,3}", name):
        raise UserError(
            f"Unknown device {name!r}. Choose one of: {', '.join(DEVICE_CHOICES)}, cuda:0, cuda:1 and so on.",
            ExitCode.USAGE,
        )
    if precision not in ("auto", *PRECISIONS):
        raise UserError(
            f"Unknown precision {precision!r}. Choose auto or one of: {', '.join(PRECISIONS)}.", ExitCode.USAGE
        )
    if kind == "auto":
        problem = _cuda_problem("cuda")
        name, why = ("cuda", "A CUDA GPU is there") if problem is None else ("cpu", problem)
    else:
        problem = {"cuda": _cuda_problem, "mps": _mps_problem}.get(kind, lambda _: None)(name)
        if problem is not None:
            raise UserError(f"The device {name!r} cannot be used: {problem}. Choose auto or cpu.", ExitCode.USAGE)
        why = "It was asked for"
    if precision != "auto":
        return Device(name, precision, f"{why}; the precision was asked for.")
    precision, because = best_precision(name)
    return Device(name, precision, f"{why}; {because}.")


def list_gpus() -> dict[str, str]:
    """GPUs that can be asked for by name, and what to call them: all of CUDA, and Apple's if it can convolve."""
    gpus = {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return gpus if _mps_problem("mps") else gpus | {"mps": "Apple GPU"}


def set_cpu_threads() -> int:
    """Uses every core but one, so that the desktop stays alive; both where there are only two.

    Never more than torch took by itself: the physical cores, or what OMP_NUM_THREADS says.

    Returns:
        The number of threads.
    """
    try:
        cores = len(os.sched_getaffinity(0))  # what a container or a batch system lets us have
    except AttributeError:
        cores = os.cpu_count() or 1
    threads = min(torch.get_num_threads(), cores - 1 if cores > 2 else cores)
    torch.set_num_threads(threads)
    return threads


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of torch or ITK says that the memory is too small."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).lower()
    return any(words in message for words in _OUT_OF_MEMORY_WORDS)


def _cuda_problem(name: str) -> str | None:
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is a build without CUDA"
        return f"torch {torch.__version__} finds no CUDA GPU or its driver"
    index = torch.device(name).index or 0
    if index >= torch.cuda.device_count():
        return f"there are only {torch.cuda.device_count()} CUDA GPUs"
    # A GPU too old or too new for this torch is listed as available and fails at its first kernel.
    failure = _first_convolution_failure(name)
    return failure and f"the GPU failed a first convolution ({failure})"


def _mps_problem(name: str) -> str | None:
    if not torch.backends.mps.is_available():
        return "there is no Apple GPU that torch can use"
    failure = _first_convolution_failure(name)
    return failure and f"its torch has no 3D convolution there ({failure})"


def _first_convolution_failure(name: str) -> str | None:
    """What a device says that cannot convolve; None from one that can."""
    try:
        volume = torch.zeros(1, 1, 8, 8, 8, device=name)
        torch.nn.functional.conv3d(volume, torch.zeros(1, 1, 5, 5, 5, device=name))
        # On MPS torch has the one, and only since 2.8 the other.
        torch.nn.functional.conv_transpose3d(volume, torch.zeros(1, 1, 2, 2, 2, device=name), stride=2)
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return None


def best_precision(name: str) -> tuple[str, str]:
    """The precision that is fast and accurate on a device, and why, as half a sentence."""
    kind = torch.device(name).type
    if kind == "cuda":
        if _gpu_has_bfloat16(name):
            return "bfloat16", "bfloat16 because the GPU has it"
        return "float16", "float16 because the GPU has no bfloat16"
    if kind == "cpu" and _cpu_has_fast_bfloat16():
        return "bfloat16", "bfloat16 because the processor has it (AVX512_BF16 or AMX)"
    return "float32", "float32 because nothing shorter is fast there"


def _gpu_has_bfloat16(name: str) -> bool:
    # torch's own question cannot be asked without emulation before 2.4, and is about the current GPU.
    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(name)[0] >= 8


def _cpu_has_fast_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities:
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile"))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())
