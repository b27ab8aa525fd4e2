"""Scans and masks: files, geometry, measures, pictures."""
