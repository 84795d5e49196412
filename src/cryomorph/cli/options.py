"""What commands share: options, and the settings that are made of them."""

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from cryomorph.errors import InputError

Run = Annotated[Path, typer.Argument(help="Run folder that train wrote.", show_default=False)]
IndicesFile = Annotated[
    Path | None, typer.Option(help="File with rows from 0: .npy, or text with one number a line.", show_default=False)
]


def kinds(package: ModuleType) -> str:
    """List the kinds of a component by the names of their files, without importing them."""
    return ", ".join(
        info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "base" and info.name[0] != "_"
    )


def option(text: str, **more: Any) -> Any:
    """Make an option with this help, in which the command says itself what the default is."""
    # Help is rendered as rich markup, where brackets must be escaped.
    return typer.Option(help=text.replace("[", "\\["), show_default=False, **more)


def numbers(text: str | None) -> list[float] | None:
    """Read `LOW,HIGH`, or one value that stands for both."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise InputError(f"{text!r}: expected LOW,HIGH or one number")
    return [values[0], values[-1]]


def put(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a nested setting such as `training.epochs`; a component that was given by its kind becomes a mapping."""
    *path, last = name.split(".")
    for key in path:
        inner = settings.get(key) or {}
        if not isinstance(inner, Mapping | str):
            raise InputError(f"--config: {key}: expected a mapping, found {inner!r}")
        settings[key] = {"kind": inner} if isinstance(inner, str) else dict(inner)
        settings = settings[key]
    settings[last] = str(value) if isinstance(value, Path) else value


def choose(settings: dict[str, Any], seam: str, kind: str) -> None:
    """Choose the kind of a component; settings of another kind, from the YAML file, no longer apply."""
    before = settings.get(seam)
    if not isinstance(before, Mapping) or before.get("kind") != kind:
        settings[seam] = {"kind": kind}
