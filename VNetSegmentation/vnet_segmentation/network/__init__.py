"""The V-Net and its losses."""
