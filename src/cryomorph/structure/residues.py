"""From atom records to the residues of proteins and nucleic acids."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import dist

import gemmi

from cryomorph.errors import InputError
from cryomorph.structure.records import AtomRecord

# fmt: off
AMINO_ACIDS = frozenset(
    {
        "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE", "LEU", "LYS", "MET", "PHE", "PRO",
        "SER", "THR", "TRP", "TYR", "VAL",
        # Protonation and binding states in CHARMM, AMBER and GROMACS.
        "HSD", "HSE", "HSP", "HID", "HIE", "HIP", "HISA", "HISB", "HISD", "HISE", "HISH", "CYX", "CYM", "CYS2",
        "ASH", "ASPH", "GLH", "GLUH", "LYN", "LYSH",
    }
)
NUCLEOTIDES = frozenset(
    {
        "A", "C", "G", "U", "DA", "DC", "DG", "DT", "ADE", "CYT", "GUA", "THY", "URA", "RA", "RC", "RG", "RU",
        # Ends of chains in AMBER.
        "A3", "A5", "C3", "C5", "G3", "G5", "U3", "U5", "DA3", "DA5", "DC3", "DC5", "DG3", "DG5", "DT3", "DT5",
        "RA3", "RA5", "RC3", "RC5", "RG3", "RG5", "RU3", "RU5",
    }
)
# fmt: on
PEPTIDE_BOND_LIMIT = 2.5  # Å, C to N and O3' to P
CALPHA_LIMIT = 4.5  # Å, neighbouring Cα where C or N are missing
SUGAR_LIMIT = 8.0  # Å, neighbouring C1' where O3' or P are missing


@dataclass(frozen=True)
class Residue:
    """A residue after the choice among alternate locations; `atoms` maps names to records, `rows` to their places."""

    chain: str
    segment: str
    stretch: int
    residue_id: str
    name: str
    hetero: bool
    in_sequence: bool
    atoms: dict[str, AtomRecord]
    rows: dict[str, int]
    twice: str  # name of an atom that is there twice, empty if none

    @property
    def representative(self) -> str:
        """Name of the atom that stands for the residue, empty when it is neither amino acid nor nucleotide."""
        tabulated = gemmi.find_tabulated_residue(self.name)
        if "CA" in self.atoms and (
            {"N", "C"} <= self.atoms.keys() or self.name in AMINO_ACIDS or tabulated.is_amino_acid()
        ):
            return "CA"
        if "C1'" in self.atoms and (
            {"C3'", "O3'", "C4'"} <= self.atoms.keys() or self.name in NUCLEOTIDES or tabulated.is_nucleic_acid()
        ):
            return "C1'"
        return ""

    @property
    def known(self) -> bool:
        """Whether the name is that of an amino acid or a nucleotide."""
        tabulated = gemmi.find_tabulated_residue(self.name)
        listed = self.name in AMINO_ACIDS or self.name in NUCLEOTIDES
        return listed or tabulated.is_amino_acid() or tabulated.is_nucleic_acid()

    def same_chain(self, other: "Residue") -> bool:
        """Whether the file gives both the same chain and segment."""
        return self.chain == other.chain and self.segment == other.segment


def polymer_residues(records: Sequence[AtomRecord], source: str) -> tuple[list[Residue], Counter[str]]:
    """Find the amino acids and nucleotides of chains, with their chain names made unique.

    Kept are residues that have the representative atom and are bonded to a neighbour, or that have the name of an
    amino acid or nucleotide and are not free ligands by the file's own word.

    Parameters
    ----------
    records
        Of one model.
    source
        File name, for messages.

    Returns
    -------
    kept : list of Residue
    left_out : Counter
        Residue names to how many residues were left out.

    Raises
    ------
    InputError
        If an atom or a residue is there twice.
    """
    residues = [_choose_locations(group) for group in _grouped(records)]
    candidates = [residue for residue in residues if residue.representative]
    bonded = {id(residue) for pair in pairwise(candidates) if are_bonded(*pair) for residue in pair}
    kept = [
        residue
        for residue in candidates
        if id(residue) in bonded or (residue.known and (not residue.hetero or residue.in_sequence))
    ]
    for residue in kept:
        if residue.twice:
            raise InputError(
                f"{source}: atom {residue.twice} is there twice in residue {residue.name} {residue.residue_id} of chain"
                f" '{residue.chain}'; give the residues different numbers or the chains different names"
            )
    places = {id(residue) for residue in kept}
    left_out = Counter(residue.name for residue in residues if id(residue) not in places)
    return _name_chains(kept, source), left_out


def are_bonded(first: Residue, second: Residue) -> bool:
    """Whether two residues that follow each other in a file are covalently linked."""
    if first.representative != second.representative or not first.same_chain(second):
        return False
    protein = first.representative == "CA"
    end, start, far = ("C", "N", CALPHA_LIMIT) if protein else ("O3'", "P", SUGAR_LIMIT)
    if end in first.atoms and start in second.atoms:
        return dist(first.atoms[end].position, second.atoms[start].position) <= PEPTIDE_BOND_LIMIT
    representative = first.representative
    return dist(first.atoms[representative].position, second.atoms[representative].position) <= far


def element_of(atom: AtomRecord) -> str:
    """Element of an atom of an amino acid or nucleotide; empty when it cannot be told.

    The recorded element counts, except two letters in a standard residue: there readers and writers take `CA` for
    calcium and `HG1` for mercury. Without one, the first letter of the name decides.
    """
    recorded = atom.element.capitalize()
    standard = atom.residue_name in AMINO_ACIDS or atom.residue_name in NUCLEOTIDES
    if gemmi.Element(recorded).atomic_number > 0 and not (standard and len(recorded) == 2):
        return recorded
    letters = atom.name.lstrip("0123456789").upper()
    if letters.startswith("SE"):
        return "Se"
    return letters[0] if letters and letters[0] in "CNOSPHD" else ""


def _grouped(records: Sequence[AtomRecord]) -> Iterator[list[tuple[int, AtomRecord]]]:
    """Split records into residues: the same chain, segment and residue number, until an atom comes again."""
    groups: list[list[tuple[int, AtomRecord]]] = []
    latest: dict[tuple[str, str, int, str], int] = {}
    held: dict[tuple[str, str, int, str], set[tuple[str, str, str]]] = {}
    previous = None
    for row, atom in enumerate(records):
        # The number of a ligand or water in mmCIF may be missing; then its name tells it apart.
        key = (atom.chain, atom.segment, atom.stretch, atom.residue_id or atom.residue_name)
        residue, place = (atom.residue_name, "", ""), (atom.residue_name, atom.name, atom.alternate)
        other = key not in latest or place in held[key] or not (atom.alternate or residue in held[key])
        if key != previous and other:
            latest[key], held[key] = len(groups), set()
            groups.append([])
        groups[latest[key]].append((row, atom))
        held[key] |= {residue, place}
        previous = key
    for group in groups:
        by_name: dict[str, list[tuple[int, AtomRecord]]] = {}
        for row, atom in group:
            by_name.setdefault(atom.residue_name, []).append((row, atom))
        # Residues that share a number are alternatives only if the file marks them as such.
        alternatives = all(atom.alternate for _, atom in group)
        yield from [group] if alternatives else by_name.values()


def _choose_locations(items: list[tuple[int, AtomRecord]]) -> Residue:
    """Choose among residue names and alternate locations: the highest occupancy, the first of equals."""
    name = _best((atom.residue_name, atom.occupancy) for _, atom in items)
    items = [(row, atom) for row, atom in items if atom.residue_name == name]
    label = _best((atom.alternate, atom.occupancy) for _, atom in items if atom.alternate)
    chosen: dict[str, tuple[int, AtomRecord]] = {}
    twice = ""
    for row, atom in items:
        atom_name = atom.name.replace("*", "'")
        held = chosen.get(atom_name)
        if held is not None and held[1].alternate == atom.alternate:
            twice = atom.name
        if held is None or atom.alternate == label:
            chosen[atom_name] = (row, atom)
    first = items[0][1]
    return Residue(
        chain=first.chain,
        segment=first.segment,
        stretch=first.stretch,
        residue_id=first.residue_id,
        name=name,
        hetero=first.hetero,
        in_sequence=first.in_sequence,
        atoms={atom_name: atom for atom_name, (_, atom) in chosen.items()},
        rows={atom_name: row for atom_name, (row, _) in chosen.items()},
        twice=twice,
    )


def _best(labels: Iterator[tuple[str, float]] | Sequence[tuple[str, float]]) -> str:
    """Return the label of the highest mean occupancy, the first of equals; empty when there are none."""
    occupancies: dict[str, list[float]] = {}
    for label, occupancy in labels:
        occupancies.setdefault(label, []).append(occupancy)
    means = {label: round(sum(values) / len(values), 6) for label, values in occupancies.items()}
    return max(means, key=lambda label: means[label], default="")


def _name_chains(residues: list[Residue], source: str) -> list[Residue]:
    """Give every chain a name of its own: the file's, the segment's where segments share one, or a letter.

    Where neither chain nor segment is named, a TER record or a residue number that comes again starts a chain.
    """
    segments = {(residue.chain, residue.segment) for residue in residues}
    shared = Counter(chain for chain, _ in segments)
    labels: dict[tuple[str, str], str] = {}
    numbers: dict[tuple[str, str], set[str]] = {}
    stretches: dict[tuple[str, str], int] = {}
    taken: set[str] = set()
    named: list[Residue] = []
    for residue in residues:
        key = (residue.chain, residue.segment)
        again = residue.residue_id in numbers.get(key, ())
        after_ter = stretches.get(key, residue.stretch) != residue.stretch
        if again and any(key) and not after_ter:
            raise InputError(
                f"{source}: residue {residue.residue_id} of chain '{residue.chain}' is there twice; give the chains"
                " different names or the residues different numbers"
            )
        if key not in labels or again or (after_ter and not any(key)):
            by_segment = residue.segment and shared[residue.chain] > 1
            labels[key] = _free_name(residue.segment if by_segment else residue.chain, taken)
            taken.add(labels[key])
            numbers[key] = set()
        numbers[key].add(residue.residue_id)
        stretches[key] = residue.stretch
        named.append(replace(residue, chain=labels[key]))
    return named


def _free_name(wanted: str, taken: set[str]) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    options = [wanted] if wanted else list(alphabet)
    options += [f"{wanted or 'A'}{number}" for number in range(2, len(taken) + 3)]
    return next(option for option in options if option not in taken)
