"""Several processes of one training compute what a single one would with the same batch."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
import small_command
import torch

from vnet_segmentation.processes import Processes, join_processes

ENGINE = Path(__file__).resolve().parents[2] / "VNetSegmentation"

STEP = """
import sys
from dataclasses import replace
import torch
from vnet_segmentation.device import Device
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.processes import join_processes
from vnet_segmentation.training.learner import Learner
from vnet_segmentation.training.recipe import load_recipe
from vnet_segmentation.training.training_run import TrainingRun
from vnet_segmentation.training.cache import TrainingCase

def make_case(seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(20, 40, 40, generator=generator)
    coverage = torch.zeros(20, 40, 40, dtype=torch.uint8)
    coverage[6:14, 12:26, 14:28] = 255
    return TrainingCase.from_arrays(f"Case{seed}", image + coverage / 100, coverage)

torch.set_num_threads(1)
with join_processes("cpu") as (processes, device):
    learner = Learner(
        recipe=replace(load_recipe("default"), width=2, batch_size=4, iterations=3, small_crop_until=0.0,
                       synthetic_probability=0.0, gradient_norm=None, preprocessing=Preprocessing(size=(32, 32, 16))),
        cases=[make_case(seed) for seed in range(4)],
        synthetic=[],
        device=Device(device, "float32", ""),
        processes=processes,
    )
    run = TrainingRun(learner, [make_case(9)])
    loss = run.step()
    gradients = {name: p.grad.clone() for name, p in learner.model.named_parameters()}
    said = []
    finished = run.run(said.append, lambda: said.append("stored"), validate_every=2)
    torch.save(
        {"loss": loss, "gradients": gradients, "weights": learner.model.state_dict(), "said": len(said),
         "history": run.history, "finished": finished},
        f"{sys.argv[1]}/{processes.rank}.pt",
    )
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """A run of one process, which is this one, and one of two."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    script = shared / "step.py"
    script.write_text(STEP)
    n_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), str(alone)])
        runpy.run_path(str(script))
    torch.set_num_threads(n_threads)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, shared]
    environment = {**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=240)
    return torch.load(alone / "0.pt"), [torch.load(shared / f"{rank}.pt") for rank in range(2)]


def test_gradients_and_loss_of_a_step_equal_those_of_one_process_with_the_same_batch(
    runs: tuple[dict, list[dict]],
) -> None:
    alone, shared = runs
    largest = max(gradient.abs().max().item() for gradient in alone["gradients"].values())
    for process in shared:
        assert process["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        for name, gradient in alone["gradients"].items():
            # Another order of the sum over the batch. A bias that is normalised away has a gradient of rounding alone.
            tolerance = 1e-5 * gradient.abs().max().item() + 1e-6 * largest
            assert torch.allclose(process["gradients"][name], gradient, rtol=1e-4, atol=tolerance), name


def test_all_processes_end_with_the_same_weights_and_the_first_speaks_for_all(runs: tuple[dict, list[dict]]) -> None:
    _, (first, second) = runs
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert first["finished"]
    assert second["finished"]
    assert first["history"] == second["history"]
    assert first["said"] > 0
    assert second["said"] == 0


@pytest.mark.parametrize("of_a_cluster", [["WORLD_SIZE"], ["WORLD_SIZE", "RANK", "MASTER_ADDR"]])
def test_a_job_for_which_a_cluster_sets_a_part_of_the_variables_is_alone(
    monkeypatch: pytest.MonkeyPatch, of_a_cluster: list[str]
) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}.items():
        monkeypatch.delenv(name, raising=False)
        if name in of_a_cluster:
            monkeypatch.setenv(name, value)
    with join_processes("cpu") as joined:
        assert joined == (Processes(), "cpu")


def test_the_command_runs_under_torchrun(tmp_path: Path, bright_ball) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        scan, mask = bright_ball((2.0 * number, 0.0, 0.0), 12.0, (40, 40, 16), (1.6, 1.6, 3.0))
        sitk.WriteImage(scan, str(data / f"Case{number}.nrrd"))
        sitk.WriteImage(mask, str(data / f"Case{number}_segmentation.nrrd"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [small_command.__file__, "train", str(data), "-o", str(tmp_path / "mine"), "--preset", "paper"]
    command += ["--layout", "monai", "--width", "1", "--iterations", "1", "--validation", "1", "--device", "cpu"]
    run = subprocess.run(
        [*launcher, *command, "--precision", "float32"],
        env={**os.environ, "PYTHONPATH": str(ENGINE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("The model is in") == 1
    assert run.stdout.count("iteration 1") == 1
    assert (tmp_path / "mine" / "model.json").is_file()
