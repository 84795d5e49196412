"""NMD files: normal modes as text, for NMWiz in VMD and for ProDy.

A line is a name and its values; `coordinates` and every `mode` are in a line of their own. Of the names that readers
know for a field, those are taken that both NMWiz and ProDy read. NMWiz shows a molecule by way of a PDB file that it
writes without a look at the width of columns, so that everything here keeps to them.
"""

import re
import string
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomorph.files import write_text
from cryomorph.structure.model import Template
from cryomorph.structure.write import split_residue_id

Array = NDArray[np.float64]

LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
LONGEST_NAME = 4  # characters that NMWiz has for the name of a residue
LOWEST, HIGHEST = -999, 9999  # residue numbers of four characters


def write_nmd(path: Path, template: Template, eigenvalue: Array, vectors: Array) -> None:
    """Write normal modes of the representative atoms of a template.

    Chains are called A, B, C … in their order unless all names are a letter or a digit; residue numbers lose insertion
    codes, and what is beyond four digits. VMD loads the file by itself when it is started with `vmd -e` and the path,
    since the first line is a command that names the file.

    Parameters
    ----------
    path
        .nmd
    template
        n residues.
    eigenvalue : array (k,)
        Above zero. The length of a mode is written as `eigenvalue^-1/2`, in proportion to its thermal motion.
    vectors : array (k, n, 3)
        Orthonormal.

    Raises
    ------
    InputError
        If the place cannot be written to, or a residue has no number.
    """
    fields = {
        "nmwiz_load": [_word(Path(path).resolve().as_posix())],
        "name": [re.sub(r"\W", "_", Path(template.source).name.partition(".")[0]) or "model"],
        "atomnames": (template.atom_names[row] for row in template.representative_atoms),
        "resnames": (_word(name[:LONGEST_NAME]) for name in template.residue_names),
        "chainids": _chain_letters(template),
        "resids": map(str, _residue_numbers(template)),
        "bfactors": ["0.00"] * len(template),
        "coordinates": (f"{value:.3f}" for value in template.coordinates.ravel().tolist()),
    }
    lines = [" ".join([name, *values]) for name, values in fields.items()]
    for number, (stiffness, vector) in enumerate(zip(eigenvalue.tolist(), vectors, strict=True), start=1):
        values = " ".join(f"{value:.6f}" for value in (vector + 0.0).ravel().tolist())
        lines.append(f"mode {number} {stiffness**-0.5:.6f} {values}")
    write_text(path, "\n".join(lines) + "\n")


def _chain_letters(template: Template) -> list[str]:
    names = template.chain_names
    if any(name not in LETTERS or len(name) != 1 for name in names):
        names = tuple(letter for letter, _ in zip(cycle(LETTERS), names, strict=False))
    return [names[index] for index in template.chain]


def _residue_numbers(template: Template) -> list[int]:
    numbers = (split_residue_id(residue_id, template.source)[0] for residue_id in template.residue_ids)
    return [number if LOWEST <= number <= HIGHEST else abs(number) % (HIGHEST + 1) for number in numbers]


def _word(text: str) -> str:
    """Quote what Tcl, whose lists and commands the lines are, would not take as it is."""
    return re.sub(r"([\s{}\[\]\"\\$;#])", r"\\\1", text)
