"""Writes Docs/commands.md from the code: every command and option, exit code, and setting of a recipe.

python Docs/make_reference.py
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "VNetSegmentation"))

from vnet_segmentation import errors
from vnet_segmentation.cli import main as cli
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.recipe import Recipe

PAGE = Path(__file__).resolve().parent / "commands.md"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(make_page(), "utf-8")


def make_page() -> str:
    """The page, in Markdown."""
    parts = [
        "# Commands, exit codes and settings",
        "Written by `Docs/make_reference.py` from the code; do not edit it here. What they mean together is in the "
        "[reference](reference.md).",
        "## Commands",
    ]
    for name, parser in _commands().items():
        parts += [f"### {name}", str(parser.description), _table(("argument", "meaning"), _arguments(parser))]
    parts += ["## Exit codes", _table(("code", "name", "meaning"), _exit_codes())]
    parts.append("## Recipes")
    folder = "VNetSegmentation/vnet_segmentation/training/recipes"
    parts.append(f"A recipe is a JSON file in `{folder}`. Axis order of sizes and lengths: x, y, z.")
    for heading, settings in (
        ("recipe", Recipe),
        ("recipe: deformation", DeformationSettings),
        ("recipe: appearance", AppearanceSettings),
        ("recipe: preprocessing", Preprocessing),
    ):
        parts += [f"### {heading}", _table(("setting", "default", "meaning"), _settings(settings))]
    return "\n\n".join(parts) + "\n"


def _commands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in cli.make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


def _arguments(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Not argparse's own text, which differs between versions of Python."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        values = action.metavar or (
            f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
        )
        names = ", ".join(action.option_strings)
        if isinstance(values, tuple):
            values = " ".join(values)
        value = "" if action.nargs == 0 else f"{values} ..." if action.nargs == "+" else values
        rows.append((f"`{' '.join(filter(None, (names, value)))}`", parser._get_formatter()._expand_help(action)))
    return rows


def _exit_codes() -> list[tuple[str, str, str]]:
    meanings = _field_texts(errors.ExitCode)
    return [(str(code.value), code.name.lower(), meanings.get(code.name, "")) for code in errors.ExitCode]


def _settings(kind: Any) -> list[tuple[str, str, str]]:
    meanings = _field_texts(kind)
    rows = []
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = "" if required or field.default is dataclasses.MISSING else f"`{field.default}`"
        rows.append((f"`{field.name}`", default, meanings.get(field.name, "")))
    return rows


def _field_texts(kind: type) -> dict[str, str]:
    """The text below each field of a class, which Python itself does not keep."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    texts, name = {}, ""
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and name:
            texts[name] = " ".join(str(statement.value.value).split())
            name = ""
        else:
            name = ""
    return texts


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    main()
