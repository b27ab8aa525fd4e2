"""Numbers pass between numpy and torch, also where torch was built for another numpy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from vnet_segmentation.arrays import to_array, to_tensor


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int8", "int64"])
def test_numbers_come_back(dtype: str) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    tensor = to_tensor(array)
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.tolist() == array.tolist()
    back = to_array(tensor)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    # Not a copy: a scan of 512 voxels a side has 0.5 GB.
    assert np.shares_memory(back, array)


def test_what_lies_otherwise_is_copied() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    turned = array.transpose(2, 0, 1)[::-1]
    assert to_tensor(turned).tolist() == turned.tolist()
    locked = array.copy()
    locked.setflags(write=False)
    to_tensor(locked).zero_()
    assert np.array_equal(locked, array)
    tensor = to_tensor(array)
    assert np.array_equal(to_array(tensor.permute(2, 0, 1)), array.transpose(2, 0, 1))


def test_a_mask_of_true_and_false_and_a_tensor_with_a_gradient() -> None:
    assert to_array(torch.tensor([True, False])).tolist() == [True, False]
    assert to_array(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_nothing_at_all() -> None:
    assert to_tensor(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert to_array(torch.zeros(0, 3)).shape == (0, 3)


_WITHOUT_A_BRIDGE = """
import sys
import torch

def refuse(*arguments, **options):
    raise RuntimeError("Numpy is not available")

torch.from_numpy = torch.Tensor.numpy = torch.Tensor.__array__ = refuse
from vnet_segmentation.cli.main import run
sys.exit(run(["demo", "-o", sys.argv[1], "--device", "cpu"]))
"""


def test_a_torch_that_refuses_this_numpy_segments(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_A_BRIDGE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout.split("synthetic scan: ")[1].split()[0]) > 0.9
