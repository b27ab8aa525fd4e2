"""The ladder of ever smaller demands on memory."""

from __future__ import annotations

import pytest
import torch

from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.inference import Predictor, blend_tiles, ladder
from vnet_segmentation.network import VNet

CPU = Device("cpu", "float32", "For tests.")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VNet("paper", 1, "none").eval()


def fail_first(network, n_failures, error):
    """Makes the network's first calls fail; returns the shapes of all calls."""
    shapes = []
    forward = network.forward

    def failing(image):
        shapes.append(tuple(image.shape[2:]))
        if len(shapes) <= n_failures:
            raise error
        return forward(image)

    network.forward = failing
    return shapes


def test_order_of_the_ladder():
    assert [str(rung) for rung in ladder(CPU)] == [
        "cpu in float32",
        "cpu in bfloat16",
        "cpu in bfloat16, in tiles",
    ]
    assert [str(rung) for rung in ladder(Device("cuda", "float16", ""))] == [
        "cuda in float16",
        "cuda in float16, in tiles",
        "cpu in float32",
        "cpu in float32, in tiles",
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_steps_down_and_says_so(network, error):
    shapes = fail_first(network, 2, error)
    predictor = Predictor(network, CPU)
    crop = torch.randn(16, 64, 64)
    probability = predictor.probability(crop)
    assert probability.shape == crop.shape
    assert predictor.steps_down == [
        "Memory ran out on cpu in float32; went on with cpu in bfloat16.",
        "Memory ran out on cpu in bfloat16; went on with cpu in bfloat16, in tiles.",
    ]
    # Two failures in one piece, then four tiles of 48: 64 * 0.625 = 40, up to a multiple of 16.
    assert shapes == [(16, 64, 64)] * 2 + [(16, 48, 48)] * 4
    predictor.probability(crop)
    assert len(predictor.steps_down) == 2
    assert shapes[6:] == [(16, 48, 48)] * 4


def test_below_the_last_rung_is_a_sentence(network):
    fail_first(network, 3, MemoryError())
    with pytest.raises(UserError, match="ran out of memory") as caught:
        Predictor(network, CPU).probability(torch.randn(16, 32, 32))
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY


def test_other_errors_are_bugs_and_stay(network):
    fail_first(network, 1, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        Predictor(network, CPU).probability(torch.randn(16, 32, 32))


def test_tiles_of_a_function_of_each_voxel_are_the_whole():
    crop = torch.randn(16, 64, 80)
    torch.testing.assert_close(blend_tiles(crop, torch.sigmoid), torch.sigmoid(crop))


def test_tiles_are_near_the_whole_prediction(network):
    # A field of view of one stage only differs at the tiles' borders, where the weights are smallest.
    crop = torch.randn(16, 64, 64)

    def smooth(tile):
        return torch.nn.functional.avg_pool3d(tile[None, None], 5, 1, 2)[0, 0]

    assert (blend_tiles(crop, smooth) - smooth(crop)).abs().max() < 0.05


def test_precisions_agree(network):
    crop = torch.randn(32, 32, 32)
    exact = Predictor(network, CPU).probability(crop)
    short = Predictor(network, Device("cpu", "bfloat16", "")).probability(crop)
    assert short.dtype == torch.float32
    assert (exact - short).abs().max() < 0.05
