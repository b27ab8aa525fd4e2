"""One segmentation, from a volume node to a segment, by way of the worker. No Qt here."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.volume_exchange import read_exchange, write_exchange
from VNetSegmentationLib.prostateSegment import ProstateSegment, addSegmentation, segmentationProblem
from VNetSegmentationLib.segmentationResult import SegmentationResult
from VNetSegmentationLib.volumeNodes import imageFromVolume
from VNetSegmentationLib.workerClient import Job, WorkerClient


class SegmentationRun:
    """Sends a volume to the worker and writes the answer into a segmentation.

    One of the last three callbacks comes, once.

    Args:
        client: of the worker.
        volumeNode: scan, see `volumeNodes.volumeProblem`.
        segmentationNode: gets the segment; None for a new one, made when there is a result.
        model: name or folder; None for the default model.
        device: see ``vnet_segmentation.device.choose_device``.
        threshold, smooth: see `SegmentationResult.writeMask`.
        beforeWriting: gets the segment before its mask is written, to remember the state for an undo.
        onProgress: gets a fraction from 0 to 1 and a sentence.
        onDone: gets the result; its report has ``seconds["total"]``, from start to segment.
        onError: gets a sentence, and the ``ExitCode`` or None.
        onCancelled: nothing was changed.

    Raises:
        UserError: the volume cannot be handed over: the disk is full.
    """

    def __init__(
        self,
        client: WorkerClient,
        volumeNode,
        segmentationNode=None,
        model: str | None = None,
        device: str = "auto",
        threshold: float = 0.5,
        smooth: bool = False,
        beforeWriting: Callable[[ProstateSegment], None] = lambda segment: None,
        onProgress: Callable[[float, str], None] = lambda fraction, sentence: None,
        onDone: Callable[[SegmentationResult], None] = lambda result: None,
        onError: Callable[[str, int | None], None] = lambda sentence, code: None,
        onCancelled: Callable[[], None] = lambda: None,
    ):
        self._client = client
        # Not their IDs, which the nodes of another patient have after the scene was closed.
        self._volumeNode, self._segmentationNode = volumeNode, segmentationNode
        self._threshold, self._smooth = threshold, smooth
        self._beforeWriting = beforeWriting
        self._onDone, self._onError, self._onCancelled = onDone, onError, onCancelled
        self._started = time.perf_counter()
        self._folder = tempfile.mkdtemp(prefix="VNetSegmentation-")
        try:
            fields = {
                "scan": write_exchange(imageFromVolume(volumeNode), os.path.join(self._folder, "scan.npy")),
                "name": volumeNode.GetName(),
                "probability": os.path.join(self._folder, "probability.npy"),
                "model": model,
                "device": device,
                "threshold": threshold,
            }
        except BaseException:
            self._removeFolder()
            raise
        self.job = client.submit(Job("segment", fields, self._finish, self._fail, self._stopped, onProgress=onProgress))

    def cancel(self) -> None:
        """Stops it; ``onCancelled`` comes within a second."""
        self._client.cancel(self.job)

    def _finish(self, answer: dict) -> None:
        try:
            result = self._writeResult(answer)
        except UserError as error:
            self._onError(str(error), error.exit_code)
            return
        except Exception as error:
            # Nobody above would hear of it: this is called from Qt's event loop.
            logging.exception("The result could not be shown")
            self._onError(_("The result could not be shown: {error}").format(error=error), None)
            return
        finally:
            self._removeFolder()
        self._onDone(result)

    def _writeResult(self, answer: dict) -> SegmentationResult:
        volumeNode, segmentationNode = self._volumeNode, self._segmentationNode
        if not slicer.mrmlScene.IsNodePresent(volumeNode):
            raise UserError(_("The volume was removed while it was segmented, so the result was dropped."))
        if segmentationNode is None or not slicer.mrmlScene.IsNodePresent(segmentationNode):
            segmentationNode = addSegmentation(volumeNode)
        problem = segmentationProblem(segmentationNode, volumeNode)
        if problem:
            raise UserError(problem)
        probability = read_exchange(answer["probability"])
        segment = ProstateSegment.prepare(segmentationNode, volumeNode)
        self._beforeWriting(segment)
        result = SegmentationResult(segment, probability, answer["report"])
        result.writeMask(self._threshold, self._smooth)
        result.report["seconds"]["total"] = round(time.perf_counter() - self._started, 2)
        return result

    def _fail(self, sentence: str, code: int | None) -> None:
        self._removeFolder()
        self._onError(sentence, code)

    def _stopped(self) -> None:
        self._removeFolder()
        self._onCancelled()

    def _removeFolder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
