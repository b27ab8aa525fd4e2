"""Labelled cases: where they are, and what is wrong with them."""
