"""What model.json holds, for a person to read."""

from __future__ import annotations

from typing import Any

_UNSHOWN = {"voxel_hashes"}
"""Tell a person nothing."""


def model_card(description: dict[str, Any]) -> str:
    """The description for a person to read, in Markdown."""
    network, weights = description["network"], description["weights"]
    parts = [
        f"# {description['title']}",
        f"Model `{description['name']}` of VNet Segmentation: it outlines the {description['labels'][-1]} in "
        "T2-weighted MR. For research, not for diagnosis.",
        f"V-Net, layout `{network['layout']}`, width {network['width']}, normalisation `{network['normalisation']}`. "
        f"Weights: `{weights['file']}`, quantisation `{weights['quantisation']}`, SHA-256 `{weights['sha256']}`.",
    ]
    for field in ("training", "metrics", "preprocessing", "parent", "versions"):
        if description[field]:
            shown = {key: item for key, item in description[field].items() if key not in _UNSHOWN}
            parts += [f"## {field.capitalize()}", _markdown(shown)]
    return "\n\n".join(parts) + "\n"


def _markdown(fields: dict[str, Any], indent: str = "") -> str:
    """Nested bullet points; a list of objects becomes a table with the first one's keys."""
    return "\n".join(f"{indent}- {_label(key)}:{_nested(item, indent)}" for key, item in fields.items())


def _nested(value: Any, indent: str) -> str:
    if isinstance(value, dict) and value:
        return "\n" + _markdown(value, indent + "  ")
    if not (isinstance(value, list) and value and all(isinstance(row, dict) for row in value)):
        return f" {_text(value)}"
    columns = list(value[0])
    lines = [[_label(c) for c in columns], ["---"] * len(columns)]
    lines += [[_text(row.get(c, "")) for c in columns] for row in value]
    # A table inside a bullet point is indented with it, after an empty line.
    return "\n\n" + "\n".join(f"{indent}  | {' | '.join(line)} |" for line in lines) + "\n"


def _label(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)
