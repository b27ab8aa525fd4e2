"""The extension's package: lists of files, description, icons, and what a build and an installation contain."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtGui import QImage, QPainter
from PySide6.QtSvg import QSvgRenderer

from vnet_segmentation.models.library import bundled_models_folder
from vnet_segmentation.user_folders import MODELS_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "VNetSegmentation"
ICONS = MODULE / "Resources" / "Icons"
MODELS = ROOT / "Resources" / "Models"

# On macOS the path in the package differs from the one in the build tree.
MODULES_BUILT = "lib/Slicer-5.13/qt-scripted-modules"
MODULES_INSTALLED = f"Slicer.app/Contents/Extensions-1/VNetSegmentation/{MODULES_BUILT}"

SLICER_CONFIG = f"""
set(Slicer_USE_FILE "${{CMAKE_CURRENT_LIST_DIR}}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${{CMAKE_CURRENT_LIST_DIR}}/Nothing.cmake")
set(Slicer_EXTENSION_CPACK "${{CMAKE_CURRENT_LIST_DIR}}/Nothing.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "{MODULES_BUILT}")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "{MODULES_INSTALLED}")
"""

# Slicer's own macro installs the whole folder that it copies to; this one only the files that it is given, so that the
# models in the package are seen to come from a rule of their own.
USE_SLICER = """
include(CTest)

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MODULE_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown keywords: ${MODULE_UNPARSED_ARGUMENTS}")
  endif()
  set(files ${MODULE_RESOURCES})
  foreach(script IN LISTS MODULE_SCRIPTS)
    get_filename_component(extension ${script} EXT)
    if(NOT extension MATCHES "py")
      string(APPEND script ".py")
    endif()
    list(APPEND files ${script})
  endforeach()
  foreach(file IN LISTS files)
    configure_file(${file} ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/${file} COPYONLY)
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/${folder} COMPONENT RuntimeLibraries)
  endforeach()
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(UNITTEST "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  get_filename_component(script ${UNITTEST_SCRIPT} ABSOLUTE)
  file(APPEND ${CMAKE_BINARY_DIR}/unittests.txt "${script}\\n")
endfunction()
"""

# Nothing is compiled, so no compiler is looked for.
TOOLCHAIN = """
foreach(language C CXX)
  set(CMAKE_${language}_COMPILER "${CMAKE_COMMAND}")
  set(CMAKE_${language}_COMPILER_ID_RUN TRUE)
  set(CMAKE_${language}_COMPILER_FORCED TRUE)
endforeach()
"""


def _files_of_the_repository(folder: Path) -> list[str]:
    """What git tracks or would track, relative to the folder."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in set(listing.stdout.splitlines()) if (folder / name).is_file())


def _cmake_list(name: str) -> list[str]:
    text = (MODULE / "CMakeLists.txt").read_text("utf-8")
    (values,) = re.findall(rf"set\({name}\s([^)]*)\)", text)
    return values.replace("${MODULE_NAME}", "VNetSegmentation").split()


def _description_in_cmake() -> dict[str, str]:
    """The EXTENSION_ values. The pattern is that of the index of extensions: quoted, on one line, without variables."""
    text = (ROOT / "CMakeLists.txt").read_text("utf-8")
    return {key.lower(): value for key, value in re.findall(r'set\(EXTENSION_(\w+) "([^"$\n]*)"\)', text)}


def _description_in_s4ext() -> dict[str, str]:
    lines = (ROOT / "VNetSegmentation.s4ext").read_text("utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def _pixels(image: QImage) -> np.ndarray:
    """uint8, (height, width, 4): red, green, blue, alpha."""
    image = image.convertToFormat(QImage.Format.Format_RGBA8888)
    return np.array(image.constBits()).reshape(image.height(), image.width(), 4)


def _drawing(size: int) -> QImage:
    image = QImage(size, size, QImage.Format.Format_ARGB32)
    image.fill(0)
    painter = QPainter(image)
    QSvgRenderer(str(ICONS / "VNetSegmentation.svg")).render(painter)
    painter.end()
    return image


def test_every_file_of_the_module_is_in_a_list_and_every_listed_file_exists():
    files = [name for name in _files_of_the_repository(MODULE) if name != "CMakeLists.txt"]
    assert sorted(_cmake_list("MODULE_PYTHON_SCRIPTS")) == [name for name in files if name.endswith(".py")]
    assert sorted(_cmake_list("MODULE_PYTHON_RESOURCES")) == [name for name in files if not name.endswith(".py")]


def test_s4ext_agrees_with_cmake():
    in_cmake, in_s4ext = _description_in_cmake(), _description_in_s4ext()
    without_variable_in_cmake = {"scm", "scmurl", "scmrevision", "build_subdirectory", "enabled"}
    assert set(in_cmake) == set(in_s4ext) - without_variable_in_cmake
    assert {key: in_s4ext[key] for key in in_cmake} == in_cmake
    assert in_s4ext["scm"] == "git"
    assert in_s4ext["scmurl"] == in_s4ext["homepage"] + ".git"
    assert in_s4ext["build_subdirectory"] == "."
    assert in_s4ext["enabled"] == "1"


def test_the_description_is_what_the_index_of_extensions_takes():
    description = _description_in_cmake()
    for key in ("homepage", "category", "contributors", "description", "iconurl", "depends"):
        assert description[key]
    assert "slicer" in description["homepage"].rpartition("/")[2].lower()
    assert not [value for value in description.values() if ";" in value]
    assert "project(VNetSegmentation)" in (ROOT / "CMakeLists.txt").read_text("utf-8")


def test_the_entry_for_the_index_of_extensions_agrees_with_the_description():
    entry = json.loads((ROOT / "VNetSegmentation.json").read_text("utf-8"))
    description = _description_in_s4ext()
    # All that the schema of the index knows.
    assert set(entry) == {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "enabled",
        "scm_revision",
        "scm_type",
        "scm_url",
        "tier",
    }
    assert entry["tier"] in (1, 3, 5)
    assert entry["build_dependencies"] == description["depends"].split()
    assert (entry["scm_url"], entry["scm_type"], entry["scm_revision"]) == (
        description["scmurl"],
        description["scm"],
        description["scmrevision"],
    )
    assert (entry["category"], entry["build_subdirectory"], entry["enabled"]) == (
        description["category"],
        description["build_subdirectory"],
        description["enabled"] == "1",
    )


def test_urls_of_pictures_lead_to_files_of_the_repository():
    description = _description_in_s4ext()
    repository = description["homepage"].removeprefix("https://github.com/")
    folder = f"https://raw.githubusercontent.com/{repository}/{description['scmrevision']}/"
    files = set(_files_of_the_repository(ROOT))
    urls = [description["iconurl"], *description["screenshoturls"].split()]
    assert len(urls) > 1, "the index of extensions asks for at least one screenshot"
    assert [url for url in urls if not url.startswith(folder) or url.removeprefix(folder) not in files] == []


@pytest.mark.parametrize(
    ("path", "size"),
    [(ICONS / "VNetSegmentation.png", 256), (ROOT / "Resources" / "Icons" / "VNetSegmentation.png", 128)],
    ids=["module", "extension"],
)
def test_icons_are_the_drawing_at_their_size(path, size):
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (size, size)
    icon = _pixels(QImage(str(path)))
    assert icon[0, 0, 3] == 0, "the corner is not transparent"
    assert icon[size // 2, size // 2, 3] == 255
    # Another renderer may smooth the edges in another way. Without its V, 8 % of the drawing, the mean difference is 7:
    # navy (37, 50, 66, 255) and the segment's colour (230, 158, 140, 255) differ by 94 on average.
    difference = np.abs(icon.astype(int) - _pixels(_drawing(size)).astype(int)).mean()
    assert difference < 1, "draw the icon again from VNetSegmentation.svg"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Folder with `build` and `installed`: the extension, built with CMake against a stand-in of Slicer's macros."""
    folder = tmp_path_factory.mktemp("package")
    for name, text in {
        "SlicerConfig": SLICER_CONFIG,
        "UseSlicer": USE_SLICER,
        "Nothing": "",
        "NoCompiler": TOOLCHAIN,
    }.items():
        (folder / f"{name}.cmake").write_text(text, "utf-8")
    options = [f"-DSlicer_DIR={folder}", f"-DCMAKE_TOOLCHAIN_FILE={folder / 'NoCompiler.cmake'}", "-DBUILD_TESTING=ON"]
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=search_path)
    assert cmake, "CMake is needed: pip install cmake"
    for arguments in (
        ["-S", ROOT, "-B", folder / "build", *options],
        ["--build", folder / "build"],
        ["--install", folder / "build", "--prefix", folder / "installed", "--component", "RuntimeLibraries"],
    ):
        step = subprocess.run([cmake, *arguments], capture_output=True, text=True)
        assert step.returncode == 0, step.stdout + step.stderr
    return folder


def test_the_package_holds_the_listed_files_and_the_models_and_nothing_else(package):
    installed = package / "installed"
    listed = _cmake_list("MODULE_PYTHON_SCRIPTS") + _cmake_list("MODULE_PYTHON_RESOURCES")
    models = [f"Resources/Models/{name}" for name in _files_of_the_repository(MODELS)]
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert found == {f"{MODULES_INSTALLED}/{name}" for name in listed + models}
    assert all((installed / MODULES_INSTALLED / name).read_bytes() == (MODULE / name).read_bytes() for name in listed)


@pytest.mark.parametrize(
    "modules", [f"build/{MODULES_BUILT}", f"installed/{MODULES_INSTALLED}"], ids=["build", "package"]
)
def test_the_bundled_model_is_found_from_any_folder(package, tmp_path, modules):
    modules = package / modules
    assert bundled_models_folder(modules / "vnet_segmentation") == modules / "Resources" / "Models"
    environment = {**os.environ, "PYTHONPATH": str(modules), "PYTHONUTF8": "1", MODELS_VARIABLE: str(tmp_path)}
    listing = subprocess.run(
        [sys.executable, "-B", "-m", "vnet_segmentation", "models"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert listing.returncode == 0, listing.stderr
    default = (MODELS / "default.txt").read_text("utf-8").strip()
    assert f"{default} (bundled)" in listing.stdout
    assert str(modules / "Resources" / "Models" / default) in listing.stdout


def test_slicer_runs_the_self_test(package):
    (script,) = (package / "build" / "unittests.txt").read_text("utf-8").splitlines()
    assert Path(script) == MODULE / "VNetSegmentation.py"
    assert "class VNetSegmentationTest(ScriptedLoadableModuleTest)" in Path(script).read_text("utf-8")
