"""What is missing, and what is said of it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "VNetSegmentation" / "Resources" / "requirements.txt"


@pytest.fixture
def dependencies(desktop):
    from VNetSegmentationLib import dependencies

    return dependencies


def test_requirements_are_those_of_the_engine_that_slicer_does_not_bring():
    in_project = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.S | re.M)[1]
    of_engine = re.findall(r'"(.+?)"', in_project)
    assert REQUIREMENTS.read_text("utf-8").split() == [
        line for line in of_engine if not line.startswith(("SimpleITK", "numpy"))
    ]


def test_nothing_is_missing_where_the_engine_runs(dependencies):
    assert dependencies.missingPackages(REQUIREMENTS) == []


@pytest.mark.parametrize(
    ("version", "line", "satisfied"),
    [
        ("1.2", "vnet-probe", True),
        ("1.2", "vnet-probe>=1.2", True),
        ("1.10", "vnet-probe>=1.2", True),
        ("1.1.9", "vnet-probe>=1.2", False),
        ("1.2", "vnet-probe>=1,<1.2", False),
        # torch's own builds: with a local part, and between two releases.
        ("1.2+cu126", "vnet-probe>=1.2", True),
        ("1.3.0a0+git123", "vnet-probe>=1.2", True),
        # What an interrupted installation leaves.
        (None, "vnet-probe", False),
        ("1.2", "other-probe", False),
        ("1.2", "other-probe; sys_platform == 'none'", True),
        ("1.2", "vnet_probe  # a comment", True),
    ],
)
def test_missing_packages(dependencies, tmp_path, pretend_installed, version, line, satisfied):
    pretend_installed("vnet_probe", version)
    file = tmp_path / "requirements.txt"
    file.write_text(f"# a comment\n\n{line}\n")
    assert dependencies.missingPackages(file) == ([] if satisfied else [line])


def test_a_package_installed_a_moment_ago_is_seen(dependencies, tmp_path, site_packages, pretend_installed):
    file = tmp_path / "requirements.txt"
    file.write_text("vnet-probe")
    assert dependencies.missingPackages(file) == ["vnet-probe"]
    before = site_packages.stat()
    pretend_installed("vnet_probe", "1.0")
    # As on a file system with coarse times: nothing tells Python's cache of the folder that it is stale.
    os.utime(site_packages, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert dependencies.missingPackages(file) == []


def test_torch_is_not_imported(tmp_path):
    code = (
        "import sys, types\n"
        "i18n = sys.modules['slicer.i18n'] = types.ModuleType('slicer.i18n'); i18n.tr = str\n"
        "from VNetSegmentationLib import dependencies as d\n"
        f"d.missingPackages({str(REQUIREMENTS)!r}); d.installationQuestion(['torch']); d.offlineAdvice(['torch'])\n"
        "assert not {'torch', 'qt'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "VNetSegmentation")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


@pytest.mark.parametrize(
    ("system", "extension", "nvidia", "size", "words"),
    [
        ("linux", True, True, "about 3 GB", "your NVIDIA graphics card"),
        ("linux", True, False, "about 200 MB", "the processor will do the work"),
        ("linux", False, False, "about 3 GB", "install the extension PyTorch"),
        ("win32", False, True, "about 130 MB", "install the extension PyTorch"),
        ("win32", False, False, "about 130 MB", ""),
        ("darwin", True, False, "about 150 MB", ""),
    ],
)
def test_question_says_what_and_how_large(
    dependencies, monkeypatch, install_pytorch_extension, system, extension, nvidia, size, words
):
    if extension:
        install_pytorch_extension()
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(dependencies.shutil, "which", lambda name: "x" if nvidia and name == "nvidia-smi" else None)
    question = dependencies.installationQuestion(["torch>=2.2", "tqdm>=4.60"])
    assert "torch, tqdm." in question
    assert size in question
    assert words in question
    assert question.endswith("meantime.")


def test_question_without_torch_is_of_a_small_download(dependencies):
    assert "a few MB" in dependencies.installationQuestion(["tqdm>=4.60"])


@pytest.mark.parametrize(
    ("system", "machine", "macos", "tags"),
    [
        ("win32", "AMD64", "", ["win_amd64"]),
        ("darwin", "arm64", "15.3.1", ["macosx_15_0_arm64"]),
        # Under Rosetta, where macOS calls itself 10.16.
        ("darwin", "x86_64", "10.16", ["macosx_11_0_x86_64"]),
        ("linux", "x86_64", "", ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64"]),
    ],
)
def test_offline_advice_names_this_kind_of_computer(dependencies, monkeypatch, system, machine, macos, tags):
    monkeypatch.setattr(sys, "platform", system)
    # Since Python 3.12 it asks Windows itself.
    monkeypatch.setattr(dependencies.shutil, "which", lambda name: None)
    monkeypatch.setattr(dependencies.platform, "machine", lambda: machine)
    monkeypatch.setattr(dependencies.platform, "mac_ver", lambda: (macos, ("", "", ""), machine))
    advice = dependencies.offlineAdvice(["torch>=2.2", "tqdm>=4.60"])
    command = next(line for line in advice.splitlines() if "pip download" in line)
    words = shlex.split(command)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--platform"] == tags
    assert words[-2:] == ["torch>=2.2", "tqdm>=4.60"]
    assert f"--python-version {sys.version_info.major}.{sys.version_info.minor}" in command


def test_offline_advice_works_word_for_word(dependencies, monkeypatch, tmp_path, site_packages, add_wheel):
    home = tmp_path / "Müller's home"
    monkeypatch.setattr(Path, "home", lambda: home)
    add_wheel("vnet-probe", "1.0")
    download, paste = re.findall(r"^    (.+)$", dependencies.offlineAdvice(["vnet-probe>=1.0"]), re.M)
    home.mkdir()

    words = shlex.split(download)
    monkeypatch.delenv("PIP_TARGET")
    subprocess.run([sys.executable, *words[1:]], check=True, cwd=home)
    monkeypatch.setenv("PIP_TARGET", str(site_packages))

    def pip_install(arguments):
        subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=True)

    eval(paste, {"slicer": types.SimpleNamespace(util=types.SimpleNamespace(pip_install=pip_install))})
    assert importlib.metadata.version("vnet-probe") == "1.0"
