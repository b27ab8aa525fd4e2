"""A checkpoint comes back exactly, appears whole or not at all, and nothing else is taken for one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.training import checkpoint
from vnet_segmentation.training.checkpoint import read_checkpoint, write_checkpoint

STATE: dict[str, Any] = {"iteration": 3, "elapsed_s": 0.1 + 0.2, "history": [{"loss": 1e-17}], "name": "Prostata é"}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 5, 5, 5, generator=generator)
    return {
        "weight": weight.to(memory_format=torch.channels_last_3d),
        "transposed": weight[0, 0].mT,
        "parameter": torch.nn.Parameter(weight[1]),
        "step": torch.tensor(7.0),
        "count": torch.tensor(2**40),
        "generator": generator.get_state(),
        "nothing": torch.zeros(0, 3),
    }


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_checkpoint(path)
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}, {"iteration": 3})
    return path


def test_tensors_and_state_come_back_exactly(tmp_path: Path) -> None:
    written = tensors()
    write_checkpoint(tmp_path / "new" / "run.safetensors", written, STATE)
    read, state = read_checkpoint(tmp_path / "new" / "run.safetensors")
    assert state == STATE
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name


def test_tensors_that_share_memory_are_each_stored(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    write_checkpoint(tmp_path / "run", {"whole": whole, "again": whole, "part": whole[2:]}, {})
    read, _ = read_checkpoint(tmp_path / "run")
    assert [read[name].tolist() for name in ("whole", "again", "part")] == [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3]]


def test_what_was_read_does_not_change_with_the_file(small: Path) -> None:
    read, _ = read_checkpoint(small)
    write_checkpoint(small, {"a": torch.zeros(2, 3)}, {})
    assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_half_way_leaves_the_former_one(
    small: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def write_half(_: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(checkpoint, "save_file", write_half)
    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        write_checkpoint(small, {"a": torch.zeros(1)}, {"iteration": 4})
    if isinstance(raised.value, UserError):
        assert raised.value.exit_code == ExitCode.CANNOT_WRITE
        assert "No space left" in str(raised.value)
    assert read_checkpoint(small)[1] == {"iteration": 3}
    assert list(small.parent.iterdir()) == [small]


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").startswith("There is no checkpoint")


def test_a_checkpoint_cut_anywhere_is_refused(small: Path) -> None:
    whole = small.read_bytes()
    for length in range(len(whole)):
        small.write_bytes(whole[:length])
        assert "damaged" in refusal(small)


def test_a_wrong_bit_anywhere_is_refused(small: Path) -> None:
    whole = small.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        small.write_bytes(damaged)
        assert "damaged" in refusal(small)


def test_what_is_no_checkpoint_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    foreign = tmp_path / "foreign"
    for content in (b"not a checkpoint", pickle.dumps(Payload())):
        foreign.write_bytes(content)
        refusal(foreign)
    torch.save({"a": Payload()}, foreign)
    refusal(foreign)
    save_file({"a": torch.zeros(1)}, foreign)
    refusal(foreign)
    save_file({"a": torch.zeros(1)}, foreign, metadata={"state": "{}"})
    refusal(foreign)
    assert not (tmp_path / "ran").exists()
    refusal(tmp_path)
