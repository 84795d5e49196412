"""`cryomorph evaluate` and `cryomorph export`: what is done with a finished run."""

from pathlib import Path
from typing import Annotated

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
    indices: IndicesFile = None,
    every: Annotated[int, typer.Option(help="Only every N-th particle.", min=1)] = 1,
    max_junk: Annotated[
        float | None,
        option(
            "Leave particles out of --particles that are nothing but noise with a larger probability.", min=0, max=1
        ),
    ] = None,
    original_poses: Annotated[
        bool, typer.Option("--original-poses", help="Leave the poses of the original file in --particles.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write conformations, or the particles of a selection, in formats that other programs open."""
    from cryomorph.config import read_indices
    from cryomorph.console import ProgressBar, say
    from cryomorph.results import export_conformations, export_particles

    if conformations is None and particles is None:
        raise InputError("nothing to export: give --conformations OUT.cif or --particles OUT.star")
    if max_junk is not None and particles is None:
        raise InputError("--max-junk: chooses among --particles, which are not asked for")
    rows = None if indices is None else read_indices(indices)
    if conformations is not None:
        count = export_conformations(
            run, conformations, indices=rows, every=every, overwrite=overwrite, progress=ProgressBar()
        )
        say(f"{conformations}: {count:,} conformations")
    if particles is not None:
        count = export_particles(
            run,
            particles,
            indices=rows,
            every=every,
            max_junk=max_junk,
            original_poses=original_poses,
            overwrite=overwrite,
        )
        say(f"{particles}: {count:,} particles")
