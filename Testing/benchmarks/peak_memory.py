"""The largest memory that this process ever had."""

from __future__ import annotations

from pathlib import Path


def peak_memory_gb() -> str:
    """In GB; a word where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux that of a new process begins with its parent's.
        lines = status.read_text("ascii").splitlines()
        return f"{next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1e6:.2f}"
    try:
        import resource
    except ImportError:
        return "unknown"
    # Bytes, on macOS.
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9:.2f}"
