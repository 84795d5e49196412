"""`cryomorph analyze`."""

import json
from typing import Annotated, Any

import typer

from cryomorph.cli.options import Run, numbers, option
from cryomorph.errors import InputError


def analyze(
    run: Run,
    states: Annotated[
        str | None, option("Groups of similar conformations, or auto [default: auto: those that are separate, else 5].")
    ] = None,
    components: Annotated[int | None, option("Principal components of the conformations [default: 10].", min=2)] = None,
    traversals: Annotated[int | None, option("Components to make motions along, at most [default: 3].", min=0)] = None,
    steps: Annotated[int | None, option("Conformations of a motion [default: 16].", min=2)] = None,
    percentiles: Annotated[
        str | None, option("Percentiles of the particles between which motions go [default: 5,95].")
    ] = None,
    distance: Annotated[
        list[str] | None, option('Distance between two residues, such as "A:55,A:169"; can be repeated.')
    ] = None,
    angle: Annotated[
        list[str] | None, option('Angle at the second of three residues, such as "A:1,A:50,A:100"; can be repeated.')
    ] = None,
    dihedral: Annotated[list[str] | None, option("Dihedral angle of four residues; can be repeated.")] = None,
    umap: Annotated[
        bool, typer.Option("--umap", help="Also embed latents by UMAP, if umap-learn is installed.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Also write what there is of each particle as CSV.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html into the run.")] = True,
    seed: Annotated[int | None, option("Seed of k-means and UMAP [default: 0].", min=0)] = None,
) -> None:
    """Find motions, states and flexibility in a finished run, and write models, scripts and a report of them."""
    from cryomorph.analysis.settings import AnalysisSettings
    from cryomorph.analysis.store import SUMMARY
    from cryomorph.analyzing import TABLE
    from cryomorph.analyzing import analyze as run_analysis
    from cryomorph.config import parse_settings
    from cryomorph.console import ProgressBar, say, show_analysis
    from cryomorph.outputs import SCRIPT
    from cryomorph.reporting import NAME
    from cryomorph.run import RunFolder

    given: dict[str, Any] = {
        "states": _count(states),
        "components": components,
        "traversals": traversals,
        "steps": steps,
        "percentiles": numbers(percentiles),
        "distances": distance,
        "angles": angle,
        "dihedrals": dihedral,
        "umap": umap,
        "seed": seed,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = parse_settings(AnalysisSettings, chosen, "command line")
    run_analysis(run, settings, ProgressBar(), table=table, report=report)
    written = RunFolder(run).analysis
    show_analysis(json.loads((written / SUMMARY).read_text(encoding="utf-8")), run)
    say(f"numbers: {written / SUMMARY}\nmodels and ChimeraX script: {written / SCRIPT}")
    if table:
        say(f"particles: {written / TABLE}")
    if report:
        say(f"report: {run / NAME}")


def _count(text: str | None) -> int | str | None:
    """Read a number of states, or "auto"."""
    if text is None or text == "auto":
        return text
    if not text.isdecimal():
        raise InputError(f"--states {text!r}: expected a number, or auto")
    return int(text)
