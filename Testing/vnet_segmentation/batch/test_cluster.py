"""A batch on a Dask cluster: one within this process, and one of two processes of which some die."""

from __future__ import annotations

import csv
import json
import os
import threading
from collections import Counter
from pathlib import Path

import dask
import pytest
import SimpleITK as sitk

from vnet_segmentation.batch import cluster
from vnet_segmentation.batch.cases import BatchOptions
from vnet_segmentation.batch.cluster import ModelChoice, run_batch_on_cluster
from vnet_segmentation.batch.run import exit_code, run_batch
from vnet_segmentation.batch.tables import REPORTS_NAME, TABLE_NAME
from vnet_segmentation.cli.main import run
from vnet_segmentation.device import choose_device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.segmentation.segmenter import Segmenter

distributed = pytest.importorskip("distributed")


def local_cluster(**arguments):
    return distributed.LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **arguments)


@pytest.fixture(scope="module")
def two_threads():
    """A cluster within this process, whose only worker would take two cases at once."""
    with local_cluster(processes=False, n_workers=1, threads_per_worker=2, protocol="tcp") as made:
        yield made


@pytest.fixture
def choice(tiny_model, sees_bright):
    cluster._load.cache_clear()
    return ModelChoice(str(tiny_model), "cpu", "float32")


@pytest.fixture
def make_scans(tmp_path, bright_ball):
    def make(*names):
        folder = tmp_path / "scans"
        folder.mkdir()
        for name in names:
            sitk.WriteImage(bright_ball()[0], str(folder / f"{name}.nrrd"))
        return folder

    return make


def table(folder):
    with open(folder / TABLE_NAME, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_does_what_a_batch_in_one_process_does(two_threads, choice, make_scans, tmp_path):
    scans = make_scans("a", "b")
    (scans / "damaged.nrrd").write_text("no image")
    seen, fractions = [], []
    rows = run_batch_on_cluster(
        two_threads.scheduler_address,
        choice,
        [scans],
        tmp_path / "cluster",
        BatchOptions(pictures=True),
        lambda *told: seen.append(told),
        lambda fraction, sentence: fractions.append(fraction),
    )
    segmenter = Segmenter(Path(choice.model), choose_device("cpu", "float32"))
    expected = run_batch(segmenter, [scans], tmp_path / "alone", BatchOptions(pictures=True))
    assert [(row.name, row.status, row.message) for row in rows] == [
        (row.name, row.status, row.message) for row in expected
    ]
    assert [row.report and row.report["volume_ml"] for row in rows] == [
        row.report and row.report["volume_ml"] for row in expected
    ]
    assert {path.name for path in (tmp_path / "cluster").iterdir()} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }
    assert [(number, total) for number, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert {row.name for _, _, row in seen} == {"a.nrrd", "b.nrrd", "damaged.nrrd"}
    assert exit_code(rows) == ExitCode.SOME_FAILED
    assert fractions[0] == 0
    assert fractions == sorted(fractions)


def test_a_process_loads_the_model_once_and_takes_one_case_at_a_time(
    two_threads, choice, make_scans, tmp_path, monkeypatch
):
    loads, at_work, most = [], threading.Semaphore(1), []
    segment_scan = cluster.segment_scan

    def watched(*arguments, **options):
        alone = at_work.acquire(blocking=False)
        most.append(alone)
        report = segment_scan(*arguments, **options)
        if alone:
            at_work.release()
        return report

    monkeypatch.setattr(cluster, "segment_scan", watched)
    monkeypatch.setattr(cluster, "Segmenter", lambda *arguments: loads.append(1) or Segmenter(*arguments))
    scans = make_scans(*"abcd")
    run_batch_on_cluster(two_threads.scheduler_address, choice, [scans], tmp_path / "out", BatchOptions())
    assert most == [True] * 4
    assert loads == [1]


def test_a_second_run_needs_no_worker_for_what_is_done(two_threads, choice, make_scans, tmp_path, monkeypatch):
    scans = make_scans("a")
    arguments = (two_threads.scheduler_address, choice, [scans], tmp_path / "out", BatchOptions())
    first = run_batch_on_cluster(*arguments)
    monkeypatch.setattr(cluster, "segment_scan", None)
    rows = run_batch_on_cluster(*arguments)
    assert [row.status for row in rows] == ["skipped"]
    assert rows[0].report["volume_ml"] == first[0].report["volume_ml"]


@pytest.mark.parametrize("stopper", ["report", "progress"])
def test_a_stop_cancels_what_no_worker_has_begun(two_threads, choice, make_scans, tmp_path, monkeypatch, stopper):
    begun, hold = [], threading.Event()
    segment_scan = cluster.segment_scan

    def watched(segmenter, scan, *arguments, **options):
        begun.append(scan.path)
        if len(begun) == 2:
            assert hold.wait(30)
        return segment_scan(segmenter, scan, *arguments, **options)

    def report(number, total, row):
        if stopper == "report":
            raise Cancelled

    def progress(fraction, sentence):
        if stopper == "progress" and fraction > 0:
            raise Cancelled

    monkeypatch.setattr(cluster, "segment_scan", watched)
    output = tmp_path / "out"
    scans = make_scans(*"abcdefghij")
    with pytest.raises(Cancelled):
        run_batch_on_cluster(two_threads.scheduler_address, choice, [scans], output, BatchOptions(), report, progress)
    assert len(table(output)) == 1
    hold.set()
    # The worker ends what it is at; with its two threads that is two cases more, of the nine that were left.
    worker = two_threads.workers[0]
    while worker.state.executing_count:
        threading.Event().wait(0.05)
    n_begun = len(begun)
    assert n_begun <= 3
    assert len(list(output.glob("*_prostate.nii.gz"))) == n_begun
    rows = run_batch_on_cluster(two_threads.scheduler_address, choice, [scans], output, BatchOptions())
    assert Counter(row.status for row in rows) == {"skipped": n_begun, "done": 10 - n_begun}


def test_a_model_that_the_workers_cannot_load_ends_the_batch(two_threads, choice, make_scans, tmp_path):
    weights = Path(choice.model) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    arguments = ([make_scans("a")], tmp_path / "out", BatchOptions())
    with pytest.raises(UserError) as caught:
        run_batch_on_cluster(two_threads.scheduler_address, choice, *arguments)
    assert caught.value.exit_code == ExitCode.BAD_MODEL


def test_a_worker_that_cannot_run_the_engine_is_a_sentence(two_threads, choice, make_scans, tmp_path, monkeypatch):
    def fail(model):
        raise ModuleNotFoundError("No module named 'vnet_segmentation'")

    arguments = ([make_scans("a")], tmp_path / "out", BatchOptions())
    # On the worker alone: the client looks the model up, too.
    monkeypatch.setattr(cluster, "_load", lambda *key: fail(key))
    with pytest.raises(UserError, match=r"cannot run vnet_segmentation .*No module named") as caught:
        run_batch_on_cluster(two_threads.scheduler_address, choice, *arguments)
    assert caught.value.exit_code == ExitCode.MISSING_DEPENDENCY


def test_no_scheduler_at_the_address_is_a_sentence(tiny_model, make_scans, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    arguments = ["batch", str(make_scans("a")), "-o", str(tmp_path / "out"), "--model", str(tiny_model)]
    for address in ("tcp://127.0.0.1:1", "nonsense://127.0.0.1:1"):
        assert run([*arguments, "--dask", address]) == ExitCode.USAGE
        assert f"No Dask scheduler answers at {address}." in capsys.readouterr().err


_DYING = """
import os, signal
from pathlib import Path
from vnet_segmentation.batch import cluster

# Dask loads this more than once.
segment_scan = getattr(cluster.segment_scan, "original", cluster.segment_scan)

def dying(segmenter, scan, *arguments, **options):
    with open(scan.path.with_suffix(".tries"), "a") as tries:
        tries.write("x")
    n_tries = scan.path.with_suffix(".tries").stat().st_size
    if scan.path.stem == "kills" or (scan.path.stem == "unlucky" and n_tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return segment_scan(segmenter, scan, *arguments, **options)

dying.original = segment_scan
cluster.segment_scan = dying
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_workers_lose_nothing_and_a_case_that_kills_them_is_a_failed_row(tiny_model, make_scans, tmp_path):
    scans, output = make_scans("a", "b", "kills", "unlucky", "z"), tmp_path / "out"
    (tmp_path / "dying.py").write_text(_DYING)
    seen = []
    with (
        dask.config.set(
            {
                # A case may die twice, not four times, before it is known for it: each time costs a start.
                "distributed.scheduler.allowed-failures": 1,
                # A busy machine takes its time to start a process again; a local cluster gives up after 15 s.
                "distributed.deploy.lost-worker-timeout": "10 minutes",
            }
        ),
        local_cluster(n_workers=2, threads_per_worker=1, preload=[str(tmp_path / "dying.py")]) as made,
    ):
        rows = run_batch_on_cluster(
            made.scheduler_address,
            ModelChoice(str(tiny_model), "cpu", "float32"),
            [scans],
            output,
            BatchOptions(),
            lambda number, total, row: seen.append(row.name),
        )
    # An untrained network finds a prostate or none; both are done.
    assert [(row.name, row.message[:30]) for row in rows if row.status not in ("done", "empty")] == [
        ("kills.nrrd", "Every worker that took it died")
    ]
    assert sorted(seen) == ["a.nrrd", "b.nrrd", "kills.nrrd", "unlucky.nrrd", "z.nrrd"]
    assert [Path(row["scan"]).stem for row in table(output)] == ["a", "b", "kills", "unlucky", "z"]
    assert table(output)[2]["status"] == "failed"
    assert len(json.loads((output / REPORTS_NAME).read_text("utf-8"))["rows"]) == 5
    assert {path.name for path in output.glob("*_prostate.nii.gz")} == {
        f"{name}_prostate.nii.gz" for name in ("a", "b", "unlucky", "z")
    }
    # Two tries alone; before, two among the others, or one, if it waited behind the unlucky one and died of that, too.
    assert (scans / "kills.tries").read_text() in ("xxx", "xxxx")
    assert len((scans / "unlucky.tries").read_text()) >= 2
