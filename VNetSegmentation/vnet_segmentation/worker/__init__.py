"""The process that works for Slicer's panel."""
