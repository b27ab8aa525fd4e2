"""What all tests share: where the real data are (not part of the repository), and how many cores a test has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Where tests run side by side, threads of two of them on the same cores would wait for each other. Also for the
# processes that tests start, and before torch reads it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["desktop.fixtures"]


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def _shared_folder(name: str) -> Path:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(
            f"needs the real scans in {folder.parent.parent.name}/{folder.parent.name}/{name}, which are absent"
        )
    return folder


@pytest.fixture(scope="session")
def promise12() -> Path:
    """Folder of the labelled PROMISE12 volumes (CaseNN.nii.gz, CaseNN_segmentation.nii.gz, cases.csv)."""
    return _shared_folder("promise12")


@pytest.fixture(scope="session")
def native() -> Path:
    """Folder of native-resolution scans without masks, one of them as a DICOM series."""
    return _shared_folder("native")


@pytest.fixture(autouse=True)
def _keep_settings_of_the_process() -> Iterator[None]:
    """The command line sets torch's number of threads and ITK's warnings for its own process, here the tests'."""
    # Not above: the process that hands the tests out to others needs neither.
    import SimpleITK as sitk
    import torch

    n_threads, warns = torch.get_num_threads(), sitk.ProcessObject.GetGlobalWarningDisplay()
    yield
    torch.set_num_threads(n_threads)
    sitk.ProcessObject.SetGlobalWarningDisplay(warns)
