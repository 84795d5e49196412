"""`cryomorph evaluate` and `cryomorph export`: what is done with a finished run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cryomorph.cli.options import IndicesFile, Run, option
from cryomorph.errors import InputError


def evaluate(
    run: Run,
    truth: Annotated[
        Path,
        typer.Option(
            help="truth.npz with coordinates, conformation and, if known, rotation, shift.", show_default=False
        ),
    ],
) -> None:
    """Compare a run with known truth: Cα RMSD in Å beside baselines, and errors of poses in degrees and Å."""
    from cryomorph.console import ProgressBar, show_evaluation
    from cryomorph.results import evaluate as run_evaluation

    show_evaluation(run_evaluation(run, truth, progress=ProgressBar()), run)


def export(
    run: Run,
    conformations: Annotated[Path | None, option("Conformations as models of one .cif, .pdb or .dcd file.")] = None,
    particles: Annotated[
        Path | None,
        option("The particles as .star or .cs, every original column kept, with the poses that the run found."),
    ] = None,
    table: Annotated[
        Path | None, option("Rows, latents and all columns of the analysis as a .csv or .npz file.")
    ] = None,
    state: Annotated[
        list[int] | None, option("Only particles of this state of analyze; can be repeated.", min=1)
    ] = None,
    where: Annotated[
        str | None, option("Only particles that meet a condition on the columns, such as 'pc1 > 1.5 and state != 2'.")
    ] = None,
    indices: IndicesFile = None,
    max_junk: Annotated[
        float | None,
        option("Leave out particles that are nothing but noise with a larger probability.", min=0, max=1),
    ] = None,
    every: Annotated[int, typer.Option(help="Only every N-th particle of the selection.", min=1)] = 1,
    columns: Annotated[
        bool,
        typer.Option(
            "--columns/--no-columns",
            help="Write latents, state, components and more beside the particles' own columns.",
        ),
    ] = True,
    original_poses: Annotated[
        bool, typer.Option("--original-poses", help="Leave the poses of the original file in --particles.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write the particles of a selection, their conformations or a table of them, as other programs open them."""
    from cryomorph.config import read_indices
    from cryomorph.console import ProgressBar, say
    from cryomorph.results import export_conformations, export_particles, export_table

    if conformations is None and particles is None and table is None:
        raise InputError("nothing to export: give --conformations OUT.cif, --particles OUT.star or --table OUT.csv")
    chosen: dict[str, Any] = {
        "indices": None if indices is None else read_indices(indices),
        "every": every,
        "states": state or (),
        "where": where,
        "max_junk": max_junk,
        "overwrite": overwrite,
    }
    if conformations is not None:
        count = export_conformations(run, conformations, progress=ProgressBar(), **chosen)
        say(f"{conformations}: {count:,} conformations")
    if particles is not None:
        count = export_particles(run, particles, original_poses=original_poses, columns=columns, **chosen)
        say(f"{particles}: {count:,} particles")
    if table is not None:
        count = export_table(run, table, **chosen)
        say(f"{table}: {count:,} rows")
