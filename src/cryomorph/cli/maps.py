"""`cryomorph maps`: maps of states from the particles themselves."""

from pathlib import Path
from typing import Annotated

import typer

from cryomorph.cli.options import IndicesFile, Run, option
from cryomorph.errors import InputError


def maps(
    run: Run,
    state: Annotated[list[int] | None, option("Number of a state; may be given several times.")] = None,
    all_states: Annotated[bool, typer.Option("--all-states", help="Maps of all states.")] = False,
    indices: IndicesFile = None,
    out: Annotated[Path | None, option("Folder to write to [analysis/maps in the run folder].")] = None,
    finest: Annotated[
        float | None, option("Å up to which maps are made; less memory for large boxes [the pixels' limit].", min=0.1)
    ] = None,
    sharpness: Annotated[
        float | None, option("Resolution in Å of the maps simulated from models [three pixels].", min=0.1)
    ] = None,
) -> None:
    """Back-project the particles of a state: half maps, their resolution, and whether they agree with its model."""
    from cryomorph.config import read_indices
    from cryomorph.console import ProgressBar, say, show_table
    from cryomorph.mapping import make_maps

    if sum((bool(state), all_states, indices is not None)) != 1:
        raise InputError("give one of --state N, --all-states and --indices FILE")
    rows = None if indices is None else read_indices(indices)
    made = make_maps(
        run,
        states=state,
        indices=rows,
        out=out,
        finest=finest,
        sharpness=sharpness,
        progress=ProgressBar(),
    )
    for found in made:
        show_table(
            f"{found.folder}: maps of {sum(found.images):,} particles",
            {
                "half maps, correlation 0.143": f"{found.resolution:.1f} Å",
                "half maps in the mask, correlation 0.143": f"{found.resolution_masked:.1f} Å",
                "map and model, correlation 0.5": f"{found.resolution_model:.1f} Å",
            },
        )
        say(f"{found.name}: {found.verdict}")
