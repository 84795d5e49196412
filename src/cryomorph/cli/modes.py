"""`cryomorph modes`."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from cryomorph.cli.options import option


def modes(
    model: Annotated[Path, typer.Argument(help="Atomic model, PDB or mmCIF.", show_default=False)],
    out: Annotated[Path, option("Folder for modes.npz, modes.nmd and a morph of each mode.")],
    count: Annotated[int, typer.Option(help="Number of modes, or of each chain or domain.")] = 20,
    cutoff: Annotated[float, typer.Option(help="Residues up to this far apart, in Å, are joined by a spring.")] = 15,
    chains: Annotated[str | None, option("Chains of the model to use, e.g. A,B [default: all].")] = None,
    by_chain: Annotated[
        bool, typer.Option("--by-chain", help="Modes of each chain as if alone, not of the whole molecule.")
    ] = False,
    groups: Annotated[
        str | None, option("Modes of each of these domains as if alone, e.g. A:1-120,A:121-214+B.")
    ] = None,
    amplitude: Annotated[
        float, typer.Option(help="Root mean square displacement at both ends of a morph, Å, over what moves.")
    ] = 3,
    frames: Annotated[int, typer.Option(help="Models of a morph, an odd number.")] = 21,
    morphs: Annotated[str, typer.Option("--format", help="Format of the morphs: cif or pdb.")] = "cif",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the modes that are in the folder.")] = False,
) -> None:
    """Write the normal modes of a model: its soft motions, as numbers and to look at."""
    from cryomorph.console import ProgressBar, say, show_modes
    from cryomorph.mode_files import ARRAYS, NMD, morph_path, write_mode_files

    found = write_mode_files(
        model,
        out,
        count=count,
        cutoff=cutoff,
        chains=chains.split(",") if chains else None,
        by_chain=by_chain,
        groups=groups,
        amplitude=amplitude,
        frames=frames,
        morphs=morphs,
        overwrite=overwrite,
        progress=ProgressBar(),
    )
    show_modes(found, model)
    first, last = morph_path(out, 0, morphs), morph_path(out, len(found) - 1, morphs)
    say(f"look at   {first} to {last.name}  ({frames} models each, {amplitude:g} Å to either side)")
    say(f"ChimeraX  open {quote(str(first))} coordsets true")
    say(f"VMD       vmd -e {quote(str(out / NMD))}")
    say(f"numbers   {out / ARRAYS}")
