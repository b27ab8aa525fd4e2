"""Masks against references, and models against each other."""
