"""Prostate segmentation in T2-weighted MR with V-Net: the engine of the 3D Slicer extension VNetSegmentation."""

__version__ = "0.1.0"
