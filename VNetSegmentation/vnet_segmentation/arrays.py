"""Between numpy and torch, whatever numpy a torch was built for.

torch 2.2 is the last one for Intel Macs, and for Slicer there, whose numpy is 2. It was built for numpy 1, and its
`from_numpy` and `numpy` refuse to work with another. DLPack, which both know, does not care.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.utils.dlpack
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(array: NDArray[Any]) -> Tensor:
    """The array's numbers, without copying them where it can be written and is in one piece."""
    return torch.utils.dlpack.from_dlpack(np.require(array, requirements=("C", "W")))


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's numbers, not to be written, without copying them where it is on the CPU and in one piece."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bool:
        # DLPack has a type for it, which not every version knows.
        return np.from_dlpack(tensor.view(torch.uint8)).view(np.bool_)
    return np.from_dlpack(tensor)
