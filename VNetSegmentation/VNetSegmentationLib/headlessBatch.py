"""The engine's batch from a Slicer without a window: its arguments, and the scans that lie in Slicer scenes."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import slicer

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.mask_files import write_scan
from VNetSegmentationLib.headlessEngine import checkPackages, optionArguments, runEngine, scriptParser
from VNetSegmentationLib.maskName import fileName
from VNetSegmentationLib.volumeNodes import imageFromVolume, scanVolumes, volumeProblem

SCENE_SUFFIXES = (".mrb", ".mrml")


def runHeadlessBatch(arguments: Sequence[str]) -> int:
    """Segments what the command line names, in a process of PythonSlicer; what that prints is printed here.

    Returns:
        The exit code: 0 if all worked, 1 if some failed, 2 for wrong arguments, 3 if a Python package is missing, and
        otherwise as of ``vnet-segmentation``.

    Raises:
        SystemExit: with code 2, for arguments that are none.
    """
    if not arguments:
        print(_parser().format_help(), file=sys.stderr)
        return int(ExitCode.USAGE)
    options = vars(_parser().parse_args(arguments))
    inputs, output = [_absolute(path) for path in options.pop("input")], _absolute(options.pop("output"))
    # A bundle that cannot be unpacked leaves Slicer in a temporary folder that is gone.
    currentFolder = os.getcwd()
    try:
        _check(inputs)
        scenes = _findScenes(inputs)
        scans, failures = _exportScenes(scenes, output, options.get("overwrite", False))
        inputs = [path for path in inputs if path not in scenes] + scans
        command = ["batch", *map(str, inputs), "-o", str(output), *optionArguments(options)]
        code = runEngine(command, currentFolder) if inputs else int(ExitCode.SOME_FAILED)
    except UserError as error:
        print(f"segment_batch: {error}", file=sys.stderr)
        return int(error.exit_code)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return int(ExitCode.SOME_FAILED) if failures and code == ExitCode.OK else code


def _parser() -> argparse.ArgumentParser:
    parser = scriptParser(
        "segment_batch.py", "Segments the prostate in T2-weighted MR scans. Run it again to go on where it stopped."
    )
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="PATH",
        help="folder that is searched with its sub-folders, scan file, DICOM folder or Slicer scene (.mrb, .mrml)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="gets masks, results.csv and results.json")
    parser.add_argument("--model", help="name or folder of a model (default: the bundled one)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--threshold", help="probability of the contour (default: 0.5)")
    parser.add_argument("--format", metavar="SUFFIX", help="of the masks, such as .seg.nrrd (default: .nii.gz)")
    parser.add_argument("--pattern", metavar="GLOB", help="only scans with such a name (default: all)")
    parser.add_argument("--dask", metavar="ADDRESS", help="compute on a Dask cluster, such as tcp://host:8786")
    parser.add_argument("--probabilities", action="store_true", help="also write the probability volumes")
    parser.add_argument("--pictures", action="store_true", help="also draw the contours on slices")
    parser.add_argument("--overwrite", action="store_true", help="segment scans again that have a mask already")
    return parser


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))


def _check(inputs: Sequence[Path]) -> None:
    """Finds what would fail anyway before a scene is read."""
    for path in inputs:
        if not path.exists():
            raise UserError(f"There is no file or folder {path}. Check the path.", ExitCode.USAGE)
    checkPackages()


def _findScenes(inputs: Sequence[Path]) -> list[Path]:
    """The scenes among the inputs, and the bundles in folders. The scans of a .mrml lie beside it, for all to find."""
    given = [path for path in inputs if path.is_file() and path.name.lower().endswith(SCENE_SUFFIXES)]
    return sorted({*given, *(scene for path in inputs if path.is_dir() for scene in path.rglob("[!.]*.mrb"))})


def _exportScenes(scenes: Sequence[Path], output: Path, overwrite: bool) -> tuple[list[Path], list[str]]:
    """Writes the scans of the scenes below the output folder.

    Returns:
        The files, and a sentence for each scene or volume that cannot be used.
    """
    files, failures = [], []
    for scene, folder in zip(scenes, _sceneFolders(scenes, output), strict=True):
        print(f"Reading {scene}", flush=True)
        slicer.mrmlScene.Clear(0)
        try:
            slicer.util.loadScene(str(scene))
        except RuntimeError as error:
            failures.append(f"{scene} cannot be read as a scene. {error}")
            continue
        volumes = scanVolumes(slicer.mrmlScene)
        if not volumes:
            failures.append(f"{scene} holds no scan.")
        for volume, name in zip(volumes, _fileNames(volumes), strict=True):
            problem = volumeProblem(volume)
            if problem:
                failures.append(f"{volume.GetName()} in {scene}: {problem}")
                continue
            file = folder / name
            files.append(file)
            if overwrite or not _isNewer(file, scene):
                write_scan(imageFromVolume(volume), file)
    slicer.mrmlScene.Clear(0)
    return files, failures


def _sceneFolders(scenes: Sequence[Path], output: Path) -> list[Path]:
    """A folder for each scene: it lies in the output folder as the scene does below the folder that all are in."""
    if not scenes:
        return []
    common = os.path.commonpath([scene.parent for scene in scenes])
    stems = Counter(scene.with_suffix("") for scene in scenes)
    unique = [scene if stems[scene.with_suffix("")] > 1 else scene.with_suffix("") for scene in scenes]
    return [output / path.relative_to(common) for path in unique]


def _fileNames(volumes: Sequence) -> list[str]:
    """Names that every system takes, each once where case does not count; a scene always gets the same."""
    names = []
    for volume in volumes:
        base = fileName(volume.GetName()) or "volume"
        name, number = f"{base}.nrrd", 1
        while name.lower() in map(str.lower, names):
            number += 1
            name = f"{base}-{number}.nrrd"
        names.append(name)
    return names


def _isNewer(file: Path, scene: Path) -> bool:
    return file.exists() and file.stat().st_mtime > scene.stat().st_mtime
