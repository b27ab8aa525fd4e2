"""What is missing and what is said of it; and installations by real pip processes, of small packages made here."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest
from PySide6 import QtCore, QtWidgets

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "VNetSegmentation" / "Resources" / "requirements.txt"
TIMEOUT_S = 60


class _QProcess(QtCore.QProcess):
    """With PythonQt's way to connect."""

    def connect(self, signature, function):
        getattr(self, signature.partition("(")[0]).connect(function)


@pytest.fixture(autouse=True)
def slicer_modules(monkeypatch):
    """`slicer.i18n` and `qt` as Slicer has them, as far as they are used here."""
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    monkeypatch.setitem(sys.modules, "slicer.i18n", i18n)
    qt = types.ModuleType("qt")
    qt.QProcess, qt.QTimer, qt.QProcessEnvironment = _QProcess, QtCore.QTimer, QtCore.QProcessEnvironment
    monkeypatch.setitem(sys.modules, "qt", qt)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)


@pytest.fixture
def dependencies():
    from VNetSegmentationLib import dependencies

    return dependencies


@pytest.fixture
def site_packages(tmp_path, monkeypatch) -> Path:
    """Folder that is on this Python's path and that pip installs into."""
    folder = tmp_path / "site packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PIP_TARGET", str(folder))
    # What is found elsewhere, such as a torch, is no help to this test's packages; nor is a cache.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return folder


@pytest.fixture
def python_slicer(tmp_path, monkeypatch) -> Path:
    """A launcher on the PATH, which starts Python as its child; the file returned gets a line for each start."""
    log = tmp_path / "commands"
    launcher = tmp_path / "bin" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n"{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def add_wheel(tmp_path):
    """Function that puts a wheel of a package with one module where pip finds it."""

    def add(name: str, version: str, module: str = "") -> None:
        folder = tmp_path / "wheels"
        folder.mkdir(exist_ok=True)
        import_name = name.replace("-", "_")
        info = f"{import_name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{import_name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{import_name}.py", module)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")

    return add


@pytest.fixture
def install(dependencies):
    """Function that installs, cancels when a line with some text comes, and returns the log and the problem or None."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["test", "-platform", "offscreen"])

    def run(missing: list[str], cancel_at: str | None = None) -> tuple[list[str], str | None]:
        log, problems = [], []
        installer = dependencies.DependencyInstaller()

        def show(line: str) -> None:
            log.append(line)
            if cancel_at and cancel_at in line:
                installer.cancel()

        installer.install(missing, show, problems.append)
        end = time.monotonic() + TIMEOUT_S
        while not problems and time.monotonic() < end:
            application.processEvents()
            time.sleep(0.01)
        (problem,) = problems
        return log, problem

    return run


def _pretend_installed(folder: Path, name: str, version: str | None) -> None:
    info = folder / f"{name}-{version or 0}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\n" + (f"Version: {version}\n" if version else ""))


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
def test_missing_packages(dependencies, tmp_path, site_packages, version, line, satisfied):
    _pretend_installed(site_packages, "vnet_probe", version)
    file = tmp_path / "requirements.txt"
    file.write_text(f"# a comment\n\n{line}\n")
    assert dependencies.missingPackages(file) == ([] if satisfied else [line])


def test_a_package_installed_a_moment_ago_is_seen(dependencies, tmp_path, site_packages):
    file = tmp_path / "requirements.txt"
    file.write_text("vnet-probe")
    assert dependencies.missingPackages(file) == ["vnet-probe"]
    before = site_packages.stat()
    _pretend_installed(site_packages, "vnet_probe", "1.0")
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


class _Extension:
    """What PyTorch's extension offers, in the two forms of its last years."""

    @staticmethod
    def _getPipInstallArguments(forceComputationBackend=None, torchVersionRequirement=None, torchvisionVersion=None):
        return ["install", "torch" + (torchVersionRequirement or ""), "torchvision"]


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
def test_question_says_what_and_how_large(dependencies, monkeypatch, system, extension, nvidia, size, words):
    if extension:
        monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=_Extension))
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


def test_install(install, site_packages, python_slicer, add_wheel):
    add_wheel("vnet-probe", "1.0")
    add_wheel("vnet-other", "2.0")
    log, problem = install(["vnet-probe>=1.0", "vnet-other"])
    assert problem is None
    assert importlib.metadata.version("vnet-other") == "2.0"
    assert any("Successfully installed" in line for line in log)
    assert log[0] == "pip install vnet-probe>=1.0 vnet-other"


def test_failure_shows_pips_own_last_lines(install, site_packages, python_slicer, add_wheel):
    add_wheel("vnet-probe", "1.0")
    _, problem = install(["vnet-probe>=2.0"])
    first, *lines = problem.splitlines()
    assert first == "The installation failed. pip says:"
    assert "vnet-probe>=2.0 (from versions: 1.0)" in lines[0]
    assert all(line.startswith("ERROR") for line in lines)


def test_failure_without_network_gives_the_offline_advice(
    dependencies, install, monkeypatch, site_packages, python_slicer
):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    # Nobody listens at the port "discard".
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    _, problem = install(["vnet-probe"])
    assert problem == dependencies.offlineAdvice(["vnet-probe"])


def test_success_that_brought_nothing_is_a_problem(
    install, monkeypatch, tmp_path, site_packages, python_slicer, add_wheel
):
    add_wheel("vnet-probe", "1.0")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    _, problem = install(["vnet-probe"])
    assert problem == "pip reports success, but vnet-probe cannot be found. Restart Slicer and try again."


def test_a_failure_that_left_nothing_missing_is_a_success(install, site_packages, python_slicer):
    # There already, and not among the wheels, but pip installs into a target whatever is there: it fails.
    _pretend_installed(site_packages, "vnet_probe", "1.0")
    log, problem = install(["vnet-probe"])
    assert any(line.startswith("ERROR") for line in log)
    assert problem is None


def test_torch_comes_as_its_extension_gets_it(install, monkeypatch, tmp_path, site_packages, python_slicer, add_wheel):
    # light-the-torch as the extension runs it, which here installs "torch" by adding metadata.
    light_the_torch = (
        "import pathlib, sys\n"
        f"info = pathlib.Path({str(site_packages)!r}) / 'torch-99.0.dist-info'\n"
        "info.mkdir()\n"
        "(info / 'METADATA').write_text('Name: torch\\nVersion: 99.0\\n')\n"
        "print('got', sys.argv[1:])\n"
    )
    add_wheel("light-the-torch", "0.8.1", light_the_torch)
    add_wheel("vnet-probe", "1.0")
    monkeypatch.setenv("PYTHONPATH", str(site_packages))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=_Extension))
    log, problem = install(["torch>=98", "vnet-probe"])
    assert problem is None
    assert "got ['install', 'torch>=98', 'torchvision']" in log
    commands = [line.partition("run_module.py ")[2] for line in python_slicer.read_text().splitlines()]
    assert commands == [
        "pip install vnet-probe",
        "pip install light-the-torch>=0.5",
        "light_the_torch install torch>=98 torchvision",
    ]


def test_another_form_of_the_extension_is_left_alone(dependencies, monkeypatch):
    class Other:
        @staticmethod
        def _getPipInstallArguments(backend):
            raise AssertionError

    for logic in (Other, object):
        monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=logic))
        assert dependencies._commands(["torch>=2.2", "tqdm"]) == [["pip", "install", "torch>=2.2", "tqdm"]]


def test_two_installations_at_once_are_refused(install, monkeypatch, python_slicer):
    packaging = types.SimpleNamespace(isPipInstallInProgress=lambda: True)
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    log, problem = install(["vnet-probe"])
    assert "Another installation" in problem
    assert log == []
    assert not python_slicer.exists()


def test_cancel_ends_the_process_behind_the_launcher(install, monkeypatch, tmp_path, site_packages, python_slicer):
    # In place of pip: a module that says its process id, and then downloads for ever.
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    (tmp_path / "fake" / "pip" / "__init__.py").touch()
    (tmp_path / "fake" / "pip" / "__main__.py").write_text(
        "import os, time\nprint('process', os.getpid(), flush=True)\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    log, problem = install(["vnet-probe"], cancel_at="process")
    assert problem == "The installation was stopped."
    process_id = int(log[1].split()[1])
    end = time.monotonic() + TIMEOUT_S
    while _is_alive(process_id) and time.monotonic() < end:
        time.sleep(0.05)
    alive = _is_alive(process_id)
    if alive:
        os.kill(process_id, signal.SIGKILL)
    assert not alive


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_progress_of_a_large_download_is_one_line_for_each_tenth(dependencies):
    installer = dependencies.DependencyInstaller()
    installer._lines, installer._shownTenths, log = [], 0, []
    installer._onLog = log.append
    # pip's raw progress: four lines a second. 500 MB in steps of 5 MB, and a small file.
    for done in range(0, 500_000_001, 5_000_000):
        installer._show(f"Progress {done} of 500000000")
    installer._show("Progress 80000 of 80000")
    assert log == [f"  {done} of 500 MB" for done in range(50, 501, 50)]


def test_without_pythonslicer_there_is_a_sentence(install, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install(["vnet-probe"]) == ([], "PythonSlicer was not found. Install Slicer again.")
