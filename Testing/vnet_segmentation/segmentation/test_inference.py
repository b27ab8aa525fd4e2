"""The ladder of ever smaller demands on memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vnet_segmentation.device import Device
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.segmentation import inference
from vnet_segmentation.segmentation.inference import Predictor, blend_tiles, ladder

CPU = Device("cpu", "float32", "For tests.")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.fixture(autouse=True)
def _bfloat16_everywhere(monkeypatch):
    """Whatever the processor of the tests has."""
    monkeypatch.setattr(inference, "best_precision", lambda name: ("bfloat16", "for tests"))


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
        "cpu in bfloat16",
        "cpu in bfloat16, in tiles",
    ]


def test_no_step_to_a_precision_that_the_processor_does_not_have(monkeypatch):
    monkeypatch.setattr(inference, "best_precision", lambda name: ("float32", "for tests"))
    assert [str(rung) for rung in ladder(CPU)] == ["cpu in float32", "cpu in float32, in tiles"]
    # A precision that was asked for is kept all the same.
    assert [str(rung) for rung in ladder(Device("cpu", "bfloat16", ""))] == [
        "cpu in bfloat16",
        "cpu in bfloat16, in tiles",
    ]


@pytest.mark.parametrize(
    "error",
    [
        OUT_OF_MEMORY,
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
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


@pytest.mark.parametrize("n_failures", range(4))
def test_each_rung_of_a_gpu_gives_the_result(network, monkeypatch, n_failures):
    rungs = ladder(Device("cuda", "float16", "For tests."))
    left = []

    def whole(predictor, crop):
        if len(left) < n_failures:
            left.append(predictor.device)
            raise OUT_OF_MEMORY
        return torch.sigmoid(crop)

    monkeypatch.setattr(Predictor, "_whole", whole)
    monkeypatch.setattr(Predictor, "_move", lambda predictor: None)
    predictor = Predictor(network, rungs[0].device)
    crop = torch.randn(16, 64, 64)
    torch.testing.assert_close(predictor.probability(crop), torch.sigmoid(crop))
    assert left == [rung.device for rung in rungs[:n_failures]]
    assert predictor.device == rungs[n_failures].device
    assert [sentence.split("; went on with ") for sentence in predictor.steps_down] == [
        [f"Memory ran out on {above}", f"{below}."] for above, below in pairwise(rungs[: n_failures + 1])
    ]


def test_weights_that_do_not_fit_step_down_too(network, monkeypatch):
    to = network.to

    def failing(*arguments, **options):
        if arguments and arguments[0].type == "cuda":
            raise OUT_OF_MEMORY
        return to(*arguments, **options)

    monkeypatch.setattr(network, "to", failing)
    predictor = Predictor(network, Device("cuda", "float16", "For tests."))
    assert predictor.probability(torch.randn(16, 32, 32)).shape == (16, 32, 32)
    assert predictor.device.name == "cpu"
    assert len(predictor.steps_down) == 2


def test_the_network_can_still_be_trained_after_a_prediction(network):
    Predictor(network, CPU).probability(torch.randn(16, 32, 32))
    network(torch.randn(1, 1, 16, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


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


def test_tiles_of_a_local_function_differ_only_where_they_end(network):
    # At a tile's border the padding counts, and there the weight is the smallest.
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
