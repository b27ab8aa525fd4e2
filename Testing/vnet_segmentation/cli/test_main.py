"""The command line, but for training, which test_train_model has."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from dicom_series import write_series
from untrained_model import save_untrained_model

from vnet_segmentation import __main__, __version__
from vnet_segmentation.cli import commands as cli_commands
from vnet_segmentation.cli import main as cli
from vnet_segmentation.cli.main import run
from vnet_segmentation.errors import ExitCode
from vnet_segmentation.images.scans import voxel_hash
from vnet_segmentation.segmentation import segmenter

PACKAGE_PARENT = Path(__file__).resolve().parents[3] / "VNetSegmentation"


@pytest.fixture
def scan_file(tmp_path, bright_ball):
    path = tmp_path / "Müller scan.nii.gz"
    sitk.WriteImage(bright_ball()[0], str(path))
    return path


@pytest.fixture
def options(tiny_model, sees_bright):
    return ["--model", str(tiny_model), "--device", "cpu", "--precision", "float32"]


def test_segment_writes_the_mask_and_says_what_it_found(scan_file, options, tmp_path, capsys):
    mask, report = tmp_path / "mask.nii.gz", tmp_path / "report.json"
    assert run(["segment", str(scan_file), "-o", str(mask), "--report", str(report), *options]) == ExitCode.OK
    assert sitk.ReadImage(str(mask)).GetSize() == (80, 80, 24)
    assert json.loads(report.read_text("utf-8"))["scan"].endswith("Müller scan.nii.gz")
    told = capsys.readouterr()
    assert "Prostate 17." in told.out
    assert "Confidence" in told.out
    assert told.err == ""


def test_segment_does_not_replace_a_file_unasked(scan_file, options, tmp_path, capsys):
    mask = tmp_path / "mask.nrrd"
    mask.write_text("corrected by hand")
    arguments = ["segment", str(scan_file), "-o", str(mask), *options]
    assert run(arguments) == ExitCode.CANNOT_WRITE
    assert mask.read_text() == "corrected by hand"
    assert capsys.readouterr().err.endswith("or choose to overwrite. See the option --overwrite.\n")
    assert run([*arguments, "--overwrite"]) == ExitCode.OK


def test_a_refusal_names_the_option_that_is_the_way_out(options, tmp_path, bright_ball, capsys):
    scan, mask = bright_ball()
    data = tmp_path / "data"
    data.mkdir()
    zones = sitk.Cast(mask, sitk.sitkUInt8)
    zones[:40, :, :] = zones[:40, :, :] * 2
    sitk.WriteImage(scan, str(data / "a.nii.gz"))
    sitk.WriteImage(zones, str(data / "a_segmentation.nii.gz"))
    # In a list of problems it has a line of its own.
    sitk.WriteImage(mask, str(data / "b_segmentation.nii.gz"))
    assert run(["evaluate", str(data), *options]) == ExitCode.BAD_INPUT
    *_, last, hint = capsys.readouterr().err.splitlines()
    assert last == f"  b: b.nii.gz is missing in {data}."
    assert hint == "See the option --label."
    assert run(["evaluate", str(data), "--label", "0", "--cases", "a", *options]) == ExitCode.OK
    capsys.readouterr()
    for number in (1, 2):
        write_series(tmp_path / "series", number)
    assert run(["segment", str(tmp_path / "series"), "-o", str(tmp_path / "m.nrrd"), *options]) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err.endswith("See the option --series.\n")
    # Other commands do not have it.
    sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
    (tmp_path / "cases.csv").write_text("image,mask\nseries,mask.nrrd\n")
    assert run(["evaluate", str(tmp_path / "cases.csv"), *options]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "2 DICOM series" in said
    assert "--series" not in said


def test_what_the_system_refuses_is_a_sentence(monkeypatch, capsys):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", "models/mine")

    monkeypatch.setattr(cli_commands, "list_models", refuse)
    assert run(["models"]) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err == "vnet-segmentation: models/mine cannot be used: Permission denied.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_for_what_is_printed_is_a_sentence():
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "vnet_segmentation", "models"],
            cwd=PACKAGE_PARENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode == ExitCode.CANNOT_WRITE
    assert process.stderr == "vnet-segmentation: The output cannot be used: No space left on device.\n"


def test_an_empty_result_has_its_own_exit_code(options, tmp_path, bright_ball, capsys):
    sitk.WriteImage(bright_ball(brightness=100)[0], str(tmp_path / "noise.nrrd"))
    mask = tmp_path / "mask.nrrd"
    assert run(["segment", str(tmp_path / "noise.nrrd"), "-o", str(mask), *options]) == ExitCode.EMPTY_RESULT
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).any()
    assert "No prostate was found" in capsys.readouterr().out


def test_batch_prints_a_line_per_scan_and_a_summary(scan_file, options, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    scan_file.rename(folder / "a.nii.gz")
    (folder / "b.nrrd").write_text("no image")
    assert run(["batch", str(folder), "-o", str(tmp_path / "out"), *options]) == ExitCode.SOME_FAILED
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("[1/2] a.nii.gz: done 17.")
    assert told[1].startswith("[2/2] b.nrrd: failed - ")
    assert told[2].startswith("1 done, 1 failed.")


def test_batch_takes_several_inputs_and_a_pattern(scan_file, options, tmp_path, capsys):
    folder, output = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    for name in ("T2_a.nii.gz", "dwi.nii.gz"):
        (folder / name).write_bytes(scan_file.read_bytes())
    arguments = ["batch", str(folder), str(scan_file), "-o", str(output), *options]
    assert run([*arguments, "--pattern", "t2*"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("[1/1] scans/T2_a.nii.gz: done 17.")
    assert run(arguments) == ExitCode.OK
    told = capsys.readouterr().out.splitlines()
    # What is there already comes first.
    assert [line.split(": ")[0] for line in told[:3]] == [
        "[1/3] scans/T2_a.nii.gz",
        "[2/3] Müller scan.nii.gz",
        "[3/3] scans/dwi.nii.gz",
    ]
    assert told[3].startswith("2 done, 1 skipped. Table: ")
    assert told[4] == "To segment what was skipped again: --overwrite"
    assert (output / "Müller scan_prostate.nii.gz").exists()


@pytest.mark.parametrize(
    ("overwrite", "advice"),
    [([], "Give the same command to go on."), (["--overwrite"], "With --overwrite the same command begins anew.")],
)
def test_ctrl_c_in_a_batch_keeps_what_is_done(scan_file, options, tmp_path, monkeypatch, capsys, overwrite, advice):
    folder, output = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.nii.gz").write_bytes(scan_file.read_bytes())
    prepare = segmenter.prepare
    scans = iter("abc")

    def interrupt(*arguments):
        if next(scans) == "b":
            signal.raise_signal(signal.SIGINT)
        return prepare(*arguments)

    monkeypatch.setattr(segmenter, "prepare", interrupt)
    assert run(["batch", str(folder), "-o", str(output), *options, *overwrite]) == ExitCode.CANCELLED
    assert capsys.readouterr().err == f"vnet-segmentation: Stopped. {advice}\n"
    assert [path.name for path in sorted(output.glob("*.nii.gz"))] == ["a_prostate.nii.gz"]
    assert json.loads((output / "results.json").read_text("utf-8"))["counts"]["done"] == 1
    assert {path.name for path in output.glob(".*")} <= {".results.lock"}


def test_ctrl_c_while_packages_are_imported_is_a_sentence(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "make_parser", interrupt)
    assert __main__.main() == ExitCode.CANCELLED
    assert capsys.readouterr().err == "vnet-segmentation: stopped.\n"


def test_evaluate_segments_labelled_cases_or_takes_masks(options, tmp_path, bright_ball, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for case, centre in (("Case00", (0, 0, 0)), ("Case01", (10, -8, 6))):
        scan, mask = bright_ball(centre)
        sitk.WriteImage(scan, str(data / f"{case}.nii.gz"))
        sitk.WriteImage(mask, str(data / f"{case}_segmentation.nii.gz"))
    written = tmp_path / "table.csv"
    assert run(["evaluate", str(data), "-o", str(written), *options]) == ExitCode.OK
    with open(written, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["Case00", "Case01"]
    assert all(float(row["dice"]) > 0.95 for row in rows)
    printed = capsys.readouterr().out
    assert "mean of 2" in printed
    assert "learned" not in printed

    results = tmp_path / "results"
    results.mkdir()
    sitk.WriteImage(bright_ball()[1], str(results / "Case00_prostate.nii.gz"))
    # A table is replaced where that is asked for.
    again = ["evaluate", str(data), "--results", str(results), "-o", str(written)]
    assert run(again) == ExitCode.CANNOT_WRITE
    assert run([*again, "--overwrite"]) == ExitCode.OK
    with open(written, newline="", encoding="utf-8") as file:
        # The missing result counts as a missed gland.
        assert [float(row["dice"]) for row in csv.DictReader(file)] == [1.0, 0.0]

    assert run(["evaluate", str(data), "--cases", "Case07", *options]) == ExitCode.USAGE


@pytest.mark.parametrize("option", [("--threshold", "0.3"), ("--device", "cpu"), ("--precision", "float32")])
def test_evaluate_refuses_options_of_a_segmentation_where_it_makes_none(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as refused:
        run(["evaluate", str(tmp_path), "--results", str(tmp_path), *option])
    assert refused.value.code == ExitCode.USAGE
    assert f"evaluate: error: argument {option[0]}: not allowed with argument --results" in capsys.readouterr().err


def test_evaluate_takes_no_other_ones_mask_for_the_case_that_is_asked_for(tmp_path, bright_ball, capsys):
    scan, mask = bright_ball()
    for image, folder in ((scan, "data/a"), (mask, "data/a"), (scan, "data/b"), (mask, "data/b"), (mask, "results/a")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        name = "t2" if image is scan else "t2_prostate"
        sitk.WriteImage(image, str(tmp_path / folder / f"{name}.nii.gz"))
    data = tmp_path / "data" / "cases.csv"
    rows = [f"{name},{name}/t2.nii.gz,{name}/t2_prostate.nii.gz" for name in "ab"]
    data.write_text("\n".join(["name,image,mask", *rows]))
    command = ["evaluate", str(data), "--results", str(tmp_path / "results"), "--cases"]
    assert run([*command, "a"]) == ExitCode.OK
    assert run([*command, "b"]) == ExitCode.BAD_INPUT
    assert "no mask for b." in capsys.readouterr().err


def test_evaluate_replaces_neither_scans_nor_its_own_list_of_cases(options, tmp_path, bright_ball, capsys):
    scan, mask = bright_ball()
    sitk.WriteImage(scan, str(tmp_path / "Case00.nii.gz"))
    sitk.WriteImage(mask, str(tmp_path / "Case00_segmentation.nii.gz"))
    cases = tmp_path / "cases.csv"
    cases.write_text("image,mask\nCase00.nii.gz,Case00_segmentation.nii.gz\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for output, code, words in (
        (tmp_path / "Case00.nii.gz", ExitCode.USAGE, "must end in .csv"),
        (cases, ExitCode.CANNOT_WRITE, "exists already"),
        (cases / "table.csv", ExitCode.CANNOT_WRITE, "not a folder that can be written"),
    ):
        assert run(["evaluate", str(cases), "-o", str(output), *options]) == code
        assert words in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_evaluate_names_every_case_that_cannot_be_read_before_it_begins(options, tmp_path, bright_ball, capsys):
    scan, mask = bright_ball()
    for case in ("Case00", "Case01", "Case02"):
        sitk.WriteImage(scan + int(case[-1]), str(tmp_path / f"{case}.nrrd"))
        sitk.WriteImage(mask, str(tmp_path / f"{case}_segmentation.nrrd"))
    (tmp_path / "Case01.nrrd").write_bytes((tmp_path / "Case01.nrrd").read_bytes()[:3000])
    (tmp_path / "Case02_segmentation.nrrd").unlink()
    assert run(["evaluate", str(tmp_path), *options]) == ExitCode.BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 cases have problems" in said.err
    assert "Case01: " in said.err
    assert "Case02: " in said.err


def test_evaluate_knows_what_the_parents_of_a_model_have_learned(
    options, tiny_model, tmp_path, bright_ball, capsys, monkeypatch
):
    library = tmp_path / "library"
    shutil.copytree(tiny_model, library / "parent")
    child = save_untrained_model(tmp_path / "child")
    parent = json.loads((library / "parent" / "model.json").read_text("utf-8"))
    parent["training"]["training_cases"] = ["Case00"]
    (library / "parent" / "model.json").write_text(json.dumps(parent), "utf-8")
    description = json.loads((child / "model.json").read_text("utf-8"))
    description["parent"] = {"name": "parent", "sha256": parent["weights"]["sha256"]}
    (child / "model.json").write_text(json.dumps(description), "utf-8")
    data = tmp_path / "data"
    data.mkdir()
    scan, mask = bright_ball()
    sitk.WriteImage(scan, str(data / "Case00.nii.gz"))
    sitk.WriteImage(mask, str(data / "Case00_segmentation.nii.gz"))
    arguments = [*options, "--model", str(child)]
    assert run(["evaluate", str(data), *arguments]) == ExitCode.OK
    assert "learned" not in capsys.readouterr().out
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(library))
    assert run(["evaluate", str(data), *arguments]) == ExitCode.OK
    assert "learned from 1 of these cases" in capsys.readouterr().out
    # Of masks that are there already their reports say who made them.
    assert run(["batch", str(data), "-o", str(tmp_path / "masks"), *options, "--model", "parent"]) == ExitCode.OK
    capsys.readouterr()
    assert run(["evaluate", str(data), "--results", str(tmp_path / "masks")]) == ExitCode.OK
    assert "learned from 1 of these cases" in capsys.readouterr().out


def test_evaluate_says_when_the_model_has_learned_from_what_it_is_measured_on(
    options, tiny_model, tmp_path, bright_ball, capsys
):
    description = json.loads((tiny_model / "model.json").read_text("utf-8"))
    description["training"]["training_cases"] = ["Case01", "Case02"]
    (tiny_model / "model.json").write_text(json.dumps(description), "utf-8")
    data = tmp_path / "data"
    data.mkdir()
    for case in ("Case00", "Case01"):
        scan, mask = bright_ball()
        sitk.WriteImage(scan, str(data / f"{case}.nii.gz"))
        sitk.WriteImage(mask, str(data / f"{case}_segmentation.nii.gz"))
    assert run(["evaluate", str(data), *options]) == ExitCode.OK
    assert "learned from 1 of these cases, by voxels or name: expect less on new ones." in capsys.readouterr().out
    # A model that does not name its cases says how many there are, and knows their voxels.
    description["training"] = {"training_cases": 1, "voxel_hashes": [voxel_hash(bright_ball()[0])]}
    (tiny_model / "model.json").write_text(json.dumps(description), "utf-8")
    assert run(["evaluate", str(data), *options]) == ExitCode.OK
    assert "learned from 2 of these cases" in capsys.readouterr().out
    results = ["evaluate", str(data), "--results", str(tmp_path / "masks"), "--model", str(tiny_model)]
    assert run(["batch", str(data), "-o", str(tmp_path / "masks"), *options]) == ExitCode.OK
    (data / "Case00.nii.gz").unlink()
    capsys.readouterr()
    assert run(results) == ExitCode.OK
    assert "learned from 1 of these cases" in capsys.readouterr().out
    description["training"] = {"training_cases": 2}
    (tiny_model / "model.json").write_text(json.dumps(description), "utf-8")
    assert run(results) == ExitCode.OK
    assert "learned" not in capsys.readouterr().out


def test_the_threshold_and_the_format_reach_the_masks(options, tmp_path, bright_ball, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    sitk.WriteImage(sitk.SmoothingRecursiveGaussian(bright_ball()[0], 3.0), str(folder / "a.nrrd"))
    volumes = []
    for threshold in ("0.2", "0.8"):
        output = tmp_path / threshold
        arguments = ["batch", str(folder), "-o", str(output), "--format", "seg.nrrd", "--threshold", threshold]
        assert run([*arguments, *options]) == ExitCode.OK
        report = json.loads((output / "a_prostate.json").read_text("utf-8"))
        assert (output / "a_prostate.seg.nrrd").exists()
        assert report["threshold"] == float(threshold)
        volumes.append(report["volume_ml"])
    assert volumes[0] > volumes[1] > 0


def test_stopped_with_the_keyboard_is_told(scan_file, options, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("vnet_segmentation.segmentation.segmenter.prepare", stop)
    assert run(["segment", str(scan_file), "-o", str(tmp_path / "m.nrrd"), *options]) == ExitCode.CANCELLED
    assert capsys.readouterr().err == "vnet-segmentation: stopped.\n"
    assert not (tmp_path / "m.nrrd").exists()


def test_models_lists_the_bundled_one(capsys):
    assert run(["models"]) == ExitCode.OK
    assert "prostate-t2 (bundled)" in capsys.readouterr().out


def test_unknown_and_damaged_models(scan_file, tmp_path, tiny_model, capsys):
    arguments = ["segment", str(scan_file), "-o", str(tmp_path / "mask.nrrd"), "--model"]
    assert run([*arguments, "no-such-model"]) == ExitCode.BAD_MODEL
    assert "prostate-t2" in capsys.readouterr().err
    weights = tiny_model / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run([*arguments, str(tiny_model)]) == ExitCode.BAD_MODEL
    assert not (tmp_path / "mask.nrrd").exists()


@pytest.mark.usefixtures("sees_bright")
def test_a_name_that_is_a_known_models_and_a_folders_here_is_refused(
    scan_file, tiny_model, tmp_path, monkeypatch, capsys
):
    known = shutil.copytree(tiny_model, tmp_path / "own" / "mine")
    shutil.copytree(tiny_model, tmp_path / "here" / "mine")
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(known.parent))
    monkeypatch.chdir(tmp_path / "here")
    scan, folder = str(scan_file), os.path.join(".", "mine")
    for arguments in (
        ["segment", scan, "-o", "mask.nrrd", "--model", "mine"],
        ["batch", scan, "-o", "masks", "--model", "mine"],
        ["batch", scan, "-o", "masks", "--model", "mine", "--dask", "tcp://localhost:1"],
        ["finetune", "data", "-o", "new", "--base", "mine"],
        ["models", "--export", "mine", "mine.zip"],
    ):
        assert run(arguments) == ExitCode.BAD_MODEL
        assert f"Give {folder} for the one in this folder, or {known} for the known one." in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["mine"]
    for number, model in enumerate((folder, str(known))):
        assert run(["models", "--export", model, f"{number}.zip"]) == ExitCode.OK
    # The folder of that name may be the known model itself, or no model at all.
    monkeypatch.chdir(known.parent)
    assert run(["segment", scan, "-o", str(tmp_path / "1.nrrd"), "--model", "mine"]) == ExitCode.OK
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(["segment", scan, "-o", str(tmp_path / "2.nrrd"), "--model", "mine"]) == ExitCode.OK


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["segment"],
        ["segment", "scan.nrrd"],
        ["paint"],
        ["train", "data", "-o", "m", "--preset", "best"],
        ["segment", "s", "-o", "m", "--colour"],
        ["segment", "s", "-o", "m", "--threshold", "1.5"],
        ["batch", "s", "-o", "m", "--threshold", "nan"],
        ["demo", "--threshold", "half"],
    ],
)
def test_wrong_use_is_told_by_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    assert stopped.value.code == ExitCode.USAGE
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra", [["--device", "tpu"], ["--device", "cuda:first"], ["--picture", "picture.jpg"], ["--device", "cuda:99"]]
)
def test_wrong_values_are_told_by_exit_code_2(scan_file, tiny_model, tmp_path, extra, capsys):
    mask = tmp_path / "mask.nrrd"
    arguments = ["segment", str(scan_file), "-o", str(mask), "--model", str(tiny_model), *extra]
    assert run(arguments) == ExitCode.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not mask.exists()


def _python(*arguments: str, code: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "vnet_segmentation"]), *arguments]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(
        command, cwd=PACKAGE_PARENT, env=environment, capture_output=True, text=True, encoding=encoding, check=False
    )


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        run(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"vnet-segmentation {__version__}\n"


def test_a_name_that_the_terminal_cannot_show_is_no_crash():
    ran = _python("batch", "前列腺", "-o", "masks", encoding="ascii")
    assert ran.returncode == ExitCode.USAGE
    assert ran.stderr == "vnet-segmentation: There is no file or folder ???. Check the path.\n"


@pytest.mark.parametrize("package", ["torch", "SimpleITK", "numpy", "safetensors", "tqdm"])
def test_a_missing_package_is_named(package):
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from vnet_segmentation.__main__ import main\n"
        "sys.argv = ['vnet-segmentation', 'models']\n"
        "sys.exit(main())\n"
    )
    ran = _python(code=code)
    assert ran.returncode == ExitCode.MISSING_DEPENDENCY
    assert f"The Python package {package} is missing" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_cluster_without_dask_is_told_how_to_get_it(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['distributed'] = None\n"
        "from vnet_segmentation.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    ran = _python("batch", str(tmp_path), "-o", str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:1", code=code)
    assert ran.returncode == ExitCode.MISSING_DEPENDENCY
    assert 'pip install "dask[distributed]"' in ran.stderr
    assert "Traceback" not in ran.stderr
