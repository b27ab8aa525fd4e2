"""Choice of device and precision, with reasons."""

from __future__ import annotations

import os

import pytest
import SimpleITK as sitk
import torch

from vnet_segmentation import device as device_module
from vnet_segmentation.device import PRECISIONS, Device, choose_device, is_out_of_memory, list_gpus, set_cpu_threads
from vnet_segmentation.errors import ExitCode, UserError


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(device_module, "_cuda_problem", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (8, 0))


def test_without_a_gpu_the_cpu_is_taken_and_the_reason_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = choose_device()
    assert chosen.name == "cpu"
    assert "CUDA" in chosen.reason


def test_cuda_is_taken_where_it_is(with_cuda):
    chosen = choose_device()
    assert (chosen.name, chosen.precision) == ("cuda", "bfloat16")


def test_cuda_without_bfloat16_computes_in_float16(with_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (7, 5))
    assert choose_device().precision == "float16"


@pytest.mark.parametrize(("supported", "precision"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_of_amd_is_asked_by_another_name(with_cuda, monkeypatch, supported, precision):
    # Its capability has another meaning.
    monkeypatch.setattr(torch.version, "hip", "6.0")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert choose_device().precision == precision


def test_a_gpu_that_fails_a_convolution_is_not_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def fail(*arguments, **options):
        raise RuntimeError("no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "zeros", fail)
    chosen = choose_device()
    assert chosen.name == "cpu"
    assert "no kernel image" in chosen.reason
    assert "more" not in chosen.reason


def test_mps_is_never_taken_by_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().name == "cpu"


@pytest.mark.parametrize(
    ("fast", "precision"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")],
)
def test_precision_of_the_cpu_follows_the_processor(monkeypatch, fast, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: fast, raising=False)
    assert choose_device("cpu").precision == precision


@pytest.mark.parametrize(
    "name",
    ["cuda", "cuda:3", "mps", "tpu", "", "cuda:", "cuda:first", "cuda:-1", "cuda:9999", "auto:1", "cpu:1", "CPU"],
)
def test_what_is_not_there_is_a_sentence(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_gpu_is_chosen_by_its_number_if_there_are_so_many(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    chosen = choose_device("cuda:1", "float16")
    assert (chosen.name, chosen.precision) == ("cuda:1", "float16")
    assert chosen.reason == "It was asked for; the precision was asked for."
    with pytest.raises(UserError, match="only 2 CUDA GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize("convolution", ["conv3d", "conv_transpose3d"])
def test_mps_is_taken_by_name_after_the_convolutions_have_run_on_it(monkeypatch, convolution):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    run_on = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: run_on.append(device) or zeros(*shape))
    assert (choose_device("mps").name, choose_device("mps").precision) == ("mps", "float32")
    assert set(run_on) == {"mps"}

    def fail(*tensors, **options):
        raise NotImplementedError("It is not supported on MPS")

    monkeypatch.setattr(torch.nn.functional, convolution, fail)
    with pytest.raises(UserError, match="It is not supported on MPS"):
        choose_device("mps")


def test_gpus_are_offered_but_no_apple_gpu_that_cannot_convolve(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    assert list_gpus() == {"cuda:0": "H200", "mps": "Apple GPU"}

    def fail(*tensors):
        raise NotImplementedError("Conv3D is not supported on MPS")

    monkeypatch.setattr(torch.nn.functional, "conv3d", fail)
    assert list_gpus() == {"cuda:0": "H200"}


def test_autocast_computes_in_the_precision():
    ones = torch.ones(2, 2)
    for precision, dtype in PRECISIONS.items():
        if precision != "float16":  # not in every torch on the CPU
            with Device("cpu", precision, "").autocast():
                assert (ones @ ones).dtype == dtype


def test_unknown_precision_is_a_sentence():
    with pytest.raises(UserError, match="Unknown precision"):
        choose_device("cpu", "int4")


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 2), (16, 15)])
def test_one_core_is_left_free_where_there_are_more_than_two(monkeypatch, cores, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    torch.set_num_threads(32)
    assert set_cpu_threads() == threads
    assert torch.get_num_threads() == threads


def test_no_more_threads_than_torch_was_told_to_take(monkeypatch):
    # What OMP_NUM_THREADS does when torch starts.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    torch.set_num_threads(3)
    assert set_cpu_threads() == 3


def test_out_of_memory_of_itk_is_known_and_other_errors_are_not():
    with pytest.raises(RuntimeError) as caught:
        sitk.Image(2**20, 2**20, 2**10, sitk.sitkFloat64)  # 8 PB
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
