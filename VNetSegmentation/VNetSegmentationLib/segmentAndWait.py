"""Segmenting from a script, which waits."""

from slicer.i18n import tr as _

from vnet_segmentation.errors import ExitCode, UserError
from VNetSegmentationLib.prostateSegment import segmentationProblem
from VNetSegmentationLib.segmentationRun import SegmentationRun
from VNetSegmentationLib.volumeNodes import volumeProblem
from VNetSegmentationLib.workerClient import WorkerClient


def segmentAndWait(client: WorkerClient, volumeNode, segmentationNode, model, device, threshold):
    """See ``VNetSegmentationLogic.segment``."""
    problem = volumeProblem(volumeNode) or segmentationProblem(segmentationNode, volumeNode)
    if problem:
        raise UserError(problem)
    outcome = {}
    run = SegmentationRun(
        client,
        volumeNode,
        segmentationNode,
        model,
        device,
        threshold,
        onDone=lambda result: outcome.update(result=result),
        onError=lambda sentence, code: outcome.update(error=sentence, code=code),
        onCancelled=lambda: outcome.update(error=_("The segmentation was cancelled."), code=ExitCode.CANCELLED),
    )
    client.wait(run.job)
    if "error" in outcome:
        if outcome["code"] is None:
            raise RuntimeError(outcome["error"])
        raise UserError(outcome["error"], ExitCode(outcome["code"]))
    result = outcome["result"]
    return result.segment.segmentationNode, result.report
