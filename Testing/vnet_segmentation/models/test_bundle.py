"""A model bundle comes back as it was saved, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models.bundle import (
    check_destination,
    load_bundle,
    read_description,
    save_bundle,
)
from vnet_segmentation.models.card import model_card
from vnet_segmentation.network.vnet import VNet

DESCRIPTION: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny prostate model",
    "preprocessing": {"spacing_mm": [1.0, 1.0, 1.5], "size": [64, 64, 32]},
    "labels": ["background", "prostate"],
    "training": {"data": "PROMISE12", "terms": "research use", "anything": {"at": ["all", 1]}},
    "metrics": {"by_site": [{"site": "UCL", "dice": 0.87654}, {"site": "HK", "dice": 0.9}]},
    "parent": {"name": "older", "sha256": "0" * 64},
}


def tiny_network(normalisation: str = "none", width: int = 1) -> VNet:
    torch.manual_seed(0)
    network = VNet("paper", width, normalisation)
    # Nothing at its initial value, so that whatever is not stored shows.
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) / 10)
    return network


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    save_bundle(folder, tiny_network(), DESCRIPTION, quantise=True)
    return folder


def edit_description(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    edit(description)
    (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")


def replace_weights(folder: Path, weights: bytes) -> None:
    """As somebody would who forges the hash, too."""
    (folder / "weights.safetensors").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    edit_description(folder, lambda description: description["weights"].update(sha256=digest))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "weights.safetensors")
    edit(tensors)
    replace_weights(folder, save(tensors))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_bundle(folder)
    assert raised.value.exit_code == ExitCode.BAD_MODEL
    assert "\n" not in str(raised.value)
    return str(raised.value)


def weights_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


# Round trip


@pytest.mark.parametrize("normalisation", ["none", "batch", "instance"])
def test_without_quantisation_every_tensor_comes_back_exactly(tmp_path: Path, normalisation: str) -> None:
    network = tiny_network(normalisation)
    save_bundle(tmp_path / "tiny", network, DESCRIPTION, quantise=False)
    loaded, _ = load_bundle(tmp_path / "tiny")
    assert not loaded.training
    assert (loaded.layout, loaded.width, loaded.normalisation) == ("paper", 1, normalisation)
    expected, found = network.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
        assert found[name].device.type == "cpu"


def test_description_comes_back_with_what_was_filled_in(tmp_path: Path) -> None:
    written = save_bundle(tmp_path / "tiny", tiny_network(), DESCRIPTION, quantise=True)
    description = read_description(tmp_path / "tiny")
    assert description == written == load_bundle(tmp_path / "tiny")[1]
    assert DESCRIPTION.items() <= description.items()
    assert description["format_version"] == 1
    assert description["network"] == {"layout": "paper", "width": 1, "normalisation": "none"}
    assert description["versions"]["torch"] == torch.__version__
    assert description["weights"] == {
        "file": "weights.safetensors",
        "sha256": weights_sha256(tmp_path / "tiny"),
        "quantisation": "int8-per-channel",
    }


def test_quantised_network_differs_by_half_a_step_at_most(tmp_path: Path) -> None:
    network = tiny_network(width=2)
    save_bundle(tmp_path / "tiny", network, DESCRIPTION, quantise=True)
    loaded = load_bundle(tmp_path / "tiny")[0].state_dict()
    transposed = {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.ConvTranspose3d)}
    n_quantised = 0
    for name, weight in network.state_dict().items():
        assert loaded[name].dtype == torch.float32
        if weight.ndim == 5 and weight.numel() > 1000:
            axes = (0, 2, 3, 4) if name in transposed else (1, 2, 3, 4)
            scale = weight.abs().amax(axes, keepdim=True) / 127
            # Rounding to the nearest integer: half a step. A restored weight of up to 127 steps is then rounded to
            # float32: 127 * 2^-24 steps, and the division before as much: less than 2e-5 steps together.
            assert ((weight - loaded[name]).abs() <= (0.5 + 2e-5) * scale).all(), name
            n_quantised += 1
        else:
            assert torch.equal(weight, loaded[name]), name
    assert n_quantised > 10


def test_output_channels_of_transposed_convolutions_have_the_scales(tmp_path: Path) -> None:
    save_bundle(tmp_path / "tiny", tiny_network(width=2), DESCRIPTION, quantise=True)
    stored = load_file(tmp_path / "tiny" / "weights.safetensors")
    # Deepest stage: 2 * 2^4 = 32 channels, transposed convolution to 16, weights (in, out, 2, 2, 2).
    assert stored["up_steps.0.0.weight"].shape == (32, 16, 2, 2, 2)
    assert stored["up_steps.0.0.weight"].dtype == torch.int8
    assert stored["up_steps.0.0.weight.scale"].shape == (16,)


def test_paper_network_at_width_8_is_small_enough_for_the_repository(tmp_path: Path) -> None:
    save_bundle(tmp_path / "m", VNet("paper", 8, "instance"), DESCRIPTION, quantise=True)
    # 16,291,584 of the 16,296,074 parameters as bytes; the others, scales, norms and the header take the rest.
    assert 16_291_584 < sum(file.stat().st_size for file in (tmp_path / "m").iterdir()) < 17_000_000


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    save_bundle(tmp_path / "a", tiny_network(), DESCRIPTION, quantise=True)
    other_order = tiny_network().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    save_bundle(tmp_path / "b", other_order, DESCRIPTION, quantise=True)
    for name in ("weights.safetensors", "model.json", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_model_card_says_what_a_person_asks_for(bundle: Path) -> None:
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Tiny prostate model\n")
    assert "- terms: research use" in card
    assert "- spacing mm: 1, 1, 1.5" in card
    # A description has tuples before it was written and lists after it was read.
    assert model_card(read_description(bundle) | {"preprocessing": {"spacing_mm": (1.0, 1.0, 1.5)}}).count("1, 1, 1.5")
    assert "  | site | dice |\n  | --- | --- |\n  | UCL | 0.8765 |\n  | HK | 0.9 |" in card
    assert weights_sha256(bundle) in card


def test_a_network_in_use_survives_the_replacement_of_its_bundle(bundle: Path) -> None:
    loaded, _ = load_bundle(bundle)
    before = [parameter.clone() for parameter in loaded.parameters()]
    size = (bundle / "weights.safetensors").stat().st_size
    with open(bundle / "weights.safetensors", "r+b") as file:
        file.write(b"\xff" * size)
    assert all(torch.equal(a, b) for a, b in zip(before, loaded.parameters(), strict=True))


# Saving


def test_existing_folders_are_not_overwritten(bundle: Path) -> None:
    before = weights_sha256(bundle)
    with pytest.raises(UserError, match="exists already") as raised:
        save_bundle(bundle, tiny_network("batch"), DESCRIPTION, quantise=True)
    assert raised.value.exit_code == ExitCode.CANNOT_WRITE
    assert weights_sha256(bundle) == before


def test_overwrite_replaces_a_bundle_of_the_same_name_only(bundle: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        save_bundle(bundle, tiny_network(), DESCRIPTION | {"name": "other"}, quantise=True, overwrite=True)
    save_bundle(bundle, tiny_network("batch"), DESCRIPTION, quantise=True, overwrite=True)
    assert read_description(bundle)["network"]["normalisation"] == "batch"
    assert [folder.name for folder in bundle.parent.iterdir()] == ["tiny"]


def test_overwrite_spares_a_folder_with_anything_else_in_it(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        save_bundle(bundle, tiny_network(), DESCRIPTION, quantise=True, overwrite=True)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "made-before").mkdir()
    save_bundle(tmp_path / "made-before", tiny_network(), DESCRIPTION, quantise=True)
    load_bundle(tmp_path / "made-before")


def test_a_failed_replacement_leaves_the_former_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights_sha256(bundle)
    rename = os.rename

    def fails_for_the_new_one(source: Path, target: Path) -> None:
        if source.name.startswith(".") and not source.name.endswith("-before"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_for_the_new_one)
    with pytest.raises(UserError, match="No space left") as raised:
        save_bundle(bundle, tiny_network("batch"), DESCRIPTION, quantise=True, overwrite=True)
    assert raised.value.exit_code == ExitCode.CANNOT_WRITE
    assert weights_sha256(bundle) == before
    assert [folder.name for folder in bundle.parent.iterdir()] == ["tiny"]


def test_a_folder_that_somebody_looks_into_for_a_moment_is_replaced(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, pauses = os.rename, []

    def refuse_once(source: Path, target: Path) -> None:
        if len(pauses) < 1:
            raise PermissionError(13, "Access is denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_once)
    monkeypatch.setattr("vnet_segmentation.atomic.time.sleep", pauses.append)
    save_bundle(bundle, tiny_network(), DESCRIPTION | {"title": "Another"}, quantise=False, overwrite=True)
    assert read_description(bundle)["title"] == "Another"
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="Cannot write") as raised:
        save_bundle(tmp_path / "file" / "model", tiny_network(), DESCRIPTION, quantise=True)
    assert raised.value.exit_code == ExitCode.CANNOT_WRITE


@pytest.mark.parametrize(
    "name", ["", ".hidden", "a/b", "..", "a b", "a ", "a.", "x" * 65, "CON", "nul", "aux.x", "Com1.t2", "x.training"]
)
def test_names_that_cannot_be_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a model") as raised:
        check_destination(tmp_path / "new", name)
    assert raised.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("name", ["conus", "a.b", "t2.con", "com", "a.training.b"])
def test_names_that_look_like_those_are_none(tmp_path: Path, name: str) -> None:
    check_destination(tmp_path / "new", name)


def test_a_diverged_network_is_not_saved(tmp_path: Path) -> None:
    network = tiny_network()
    network.state_dict()["output.0.bias"][0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        save_bundle(tmp_path / "tiny", network, DESCRIPTION, quantise=True)
    assert not (tmp_path / "tiny").exists()


def test_an_incomplete_description_is_not_saved(tmp_path: Path) -> None:
    incomplete = {key: value for key, value in DESCRIPTION.items() if key != "metrics"}
    with pytest.raises(ValueError, match="metrics"):
        save_bundle(tmp_path / "tiny", tiny_network(), incomplete, quantise=True)
    assert not (tmp_path / "tiny").exists()


# Damaged and foreign bundles


def test_missing_folder(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "none")


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_missing_file(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    assert f"{file} is missing" in refusal(bundle)


def test_a_bundle_without_its_card_still_works(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    load_bundle(bundle)


@pytest.mark.parametrize("position", [3, 200, -1])
def test_damaged_byte(bundle: Path, position: int) -> None:
    weights = bytearray((bundle / "weights.safetensors").read_bytes())
    weights[position] ^= 1
    (bundle / "weights.safetensors").write_bytes(weights)
    assert "SHA-256" in refusal(bundle)


def test_wrong_hash(bundle: Path) -> None:
    edit_description(bundle, lambda description: description["weights"].update(sha256="0" * 64))
    assert "SHA-256" in refusal(bundle)


@pytest.mark.parametrize("n_bytes", [0, 5, 100, -1])
def test_truncated_file_even_with_its_hash(bundle: Path, n_bytes: int) -> None:
    replace_weights(bundle, (bundle / "weights.safetensors").read_bytes()[:n_bytes])
    assert "not a safetensors file" in refusal(bundle)


def test_missing_tensor(bundle: Path) -> None:
    edit_tensors(bundle, lambda tensors: tensors.pop("output.0.bias"))
    assert "lacks 1 tensors and has 0 foreign ones, for example output.0.bias" in refusal(bundle)


def test_missing_scale(bundle: Path) -> None:
    edit_tensors(bundle, lambda tensors: tensors.pop("down_stages.4.convolutions.0.0.weight.scale"))
    assert "down_stages.4.convolutions.0.0.weight.scale" in refusal(bundle)


def test_extra_tensor(bundle: Path) -> None:
    edit_tensors(bundle, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "lacks 0 tensors and has 1 foreign ones, for example extra" in refusal(bundle)


def test_wrong_shape(bundle: Path) -> None:
    edit_tensors(bundle, lambda tensors: tensors.update({"output.0.bias": torch.zeros(3)}))
    assert "output.0.bias has the shape [3] instead of [2]" in refusal(bundle)


def test_wrong_type(bundle: Path) -> None:
    edit_tensors(bundle, lambda tensors: tensors.update({"output.0.bias": torch.zeros(2, dtype=torch.float16)}))
    assert "output.0.bias has the type F16 instead of F32" in refusal(bundle)


def test_weights_that_are_not_finite(bundle: Path) -> None:
    edit_tensors(bundle, lambda tensors: tensors["output.0.bias"].fill_(float("inf")))
    assert "not finite" in refusal(bundle)


def test_other_layout_than_the_weights(bundle: Path) -> None:
    edit_description(bundle, lambda description: description["network"].update(layout="caffe"))
    assert "tensors" in refusal(bundle)


def test_other_width_than_the_weights(tmp_path: Path) -> None:
    save_bundle(tmp_path / "tiny", tiny_network(), DESCRIPTION, quantise=False)
    # The largest that is allowed: a billion parameters, 4 GB if they were made before the shapes are compared.
    edit_description(tmp_path / "tiny", lambda description: description["network"].update(width=64))
    assert "has the shape [2, 1, 2, 2, 2] instead of [128, 64, 2, 2, 2]" in refusal(tmp_path / "tiny")


class _Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_is_unpickled(bundle: Path, tmp_path: Path, writer: str) -> None:
    marker = tmp_path / "unpickled"
    file = tmp_path / "weights.pt"
    if writer == "pickle":
        file.write_bytes(pickle.dumps(_Payload(marker)))
    else:
        torch.save({"output.0.bias": torch.zeros(2), "payload": _Payload(marker)}, file)
    replace_weights(bundle, file.read_bytes())
    assert "not a safetensors file" in refusal(bundle)
    assert not marker.exists()


def test_safetensors_of_another_program(bundle: Path, tmp_path: Path) -> None:
    save_file({"model.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    replace_weights(bundle, (tmp_path / "foreign.safetensors").read_bytes())
    assert "1 foreign ones" in refusal(bundle)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"format_version": NaN}',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b" " * 2_000_000,
    ],
    ids=["empty", "cut", "list", "null", "binary", "nested", "NaN", "huge number", "huge file"],
)
def test_ill_formed_description(bundle: Path, text: bytes) -> None:
    (bundle / "model.json").write_bytes(text)
    assert "model.json" in refusal(bundle)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format_version",), 2),
        (("format_version",), True),
        (("format_version",), "1"),
        (("name",), "../escape"),
        (("name",), 7),
        (("title",), "two\nlines"),
        (("title",), "\x1b[31mred"),
        (("title",), ""),
        (("network",), "paper"),
        (("network", "layout"), "resnet"),
        (("network", "layout"), ["paper"]),
        (("network", "width"), 0),
        (("network", "width"), -8),
        (("network", "width"), 65),
        (("network", "width"), 10**18),
        (("network", "width"), 1.0),
        (("network", "width"), True),
        (("network", "normalisation"), "layer"),
        (("network", "device"), "cuda"),
        (("preprocessing",), []),
        (("preprocessing", "anything"), 1),
        (("preprocessing", "size"), [64.0, 64.0, 32.0]),
        (("preprocessing", "size"), [64, 64]),
        (("preprocessing", "size"), 64),
        (("preprocessing", "spacing_mm"), ["1", "1", "1"]),
        (("preprocessing", "bias_correction"), "no"),
        (("labels",), ["background"]),
        (("labels",), [0, 1]),
        (("training",), None),
        (("metrics",), "good"),
        (("parent",), "older"),
        (("weights", "file"), "../weights.safetensors"),
        (("weights", "file"), "/etc/passwd"),
        (("weights", "file"), "model.json"),
        (("weights", "sha256"), "abc"),
        (("weights", "sha256"), 5),
        (("weights", "quantisation"), "int4"),
        (("weights", "quantisation"), {}),
    ],
)
def test_hostile_description(bundle: Path, path: tuple[str, ...], value: object) -> None:
    def edit(description: dict[str, Any]) -> None:
        for key in path[:-1]:
            description = description[key]
        description[path[-1]] = value

    edit_description(bundle, edit)
    assert "model.json: " in refusal(bundle)


@pytest.mark.parametrize("field", [*DESCRIPTION, "format_version", "network", "versions", "weights"])
def test_missing_field(bundle: Path, field: str) -> None:
    edit_description(bundle, lambda description: description.pop(field))
    assert f"'{field}' is missing" in refusal(bundle)


def test_reading_the_description_does_not_open_the_weights(bundle: Path) -> None:
    (bundle / "weights.safetensors").write_bytes(b"damaged")
    assert read_description(bundle)["name"] == "tiny"
