"""`cryomorph check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryomorph.cli.options import option

if TYPE_CHECKING:
    from cryomorph.checking import Report

COLOURS = {"good": "green", "suspect": "yellow", "wrong": "red", "not tested": "dim"}
SHOWN = 4
"""Numbers of a finding; --json has all."""


def check(
    particles: Annotated[
        Path,
        typer.Argument(
            help="RELION .star or cryoSPARC .cs file, with CTF, and poses if there are any.", show_default=False
        ),
    ],
    template: Annotated[Path, option("Atomic model, PDB or mmCIF, docked into the consensus map.")],
    datadir: Annotated[Path | None, option("Folder that image paths are relative to.")] = None,
    strip_prefix: Annotated[str | None, option("Leading part of image paths to drop.")] = None,
    passthrough: Annotated[Path | None, option("cryoSPARC passthrough .cs file with the remaining fields.")] = None,
    box: Annotated[int | None, option("Fourier-crop images to this many pixels.", min=16)] = None,
    first: Annotated[int | None, option("Use the first N particles only.", min=1)] = None,
    indices: Annotated[Path | None, option("Use these rows only (from 0): .npy or text file.")] = None,
    pixel_size: Annotated[float | None, option("Pixel size in Å, overriding the file's.")] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Flip the contrast: for images with dark protein.")] = False,
    chains: Annotated[str | None, option("Chains of the template to use, e.g. A,B [default: all].")] = None,
    template_frame: Annotated[
        str | None, option("Where the map's origin is: auto, centre or corner of the box [default: auto].")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file.", show_default=False)
    ] = None,
) -> None:
    """Say whether template, images, poses and CTF agree, before training; exit code 1 if something is wrong."""
    from cryomorph.checking import check as run_check
    from cryomorph.config import ParticlesConfig, TemplateConfig, parse_settings
    from cryomorph.console import ProgressBar
    from cryomorph.files import write_text

    given: dict[str, Any] = {
        "path": particles,
        "datadir": datadir,
        "strip_prefix": strip_prefix,
        "passthrough": passthrough,
        "box": box,
        "first": first,
        "indices": indices,
        "pixel_size": pixel_size,
        "invert": invert,
    }
    model: dict[str, Any] = {
        "path": template,
        "chains": chains.split(",") if chains else None,
        "frame": template_frame,
    }
    found = run_check(
        parse_settings(ParticlesConfig, _given(given), "command line"),
        parse_settings(TemplateConfig, _given(model), "command line"),
        progress=ProgressBar(),
    )
    if json_file is not None:
        write_text(json_file, json.dumps(found.as_dict(), indent=1) + "\n")
    _show(found, particles)
    if found.verdict == "wrong":
        raise typer.Exit(1)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _show(found: "Report", particles: Path) -> None:
    """Print what was read, a line a test, and what would mend it."""
    from rich.table import Table
    from rich.text import Text

    from cryomorph.console import console, say, show_table

    show_table(f"{particles}", found.read)
    table = Table()
    for name in ("test", "verdict", "what was found"):
        table.add_column(name)
    for finding in found.findings:
        said = finding.sentence + (f"\nmend: {finding.mend}" if finding.mend else "")
        evidence = list(finding.evidence.items())[:SHOWN]
        numbers = ", ".join(f"{name} {_number(value)}" for name, value in evidence)
        text = Text(said).append(f"\n{numbers}" if numbers else "", style="dim")
        table.add_row(finding.name, Text(finding.verdict, style=COLOURS[finding.verdict]), text)
    console.print(table)
    say(f"verdict: {found.verdict}")


def _number(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
