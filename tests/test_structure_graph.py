from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryomorph.structure.graph import backbone_graph, hydrogen_bonds, peptide_bonds
from cryomorph.structure.model import read_template
from structure_builders import backbone, template_of

ORACLE = Path(__file__).parent / "oracles" / "adk_open_hydrogen_bonds.csv"


def test_helix_bonds_every_amide_to_the_fourth_carbonyl_before():
    helix = template_of(backbone(14), ["ALA"] * 14)
    np.testing.assert_array_equal(hydrogen_bonds(helix), [(i + 4, i) for i in range(10)])
    assert len(backbone_graph(helix)) == 13 + 10


def test_extended_chain_has_none():
    assert len(hydrogen_bonds(template_of(backbone(14, -139, 135), ["ALA"] * 14))) == 0


def test_proline_and_residues_after_a_break_do_not_donate():
    names = ["ALA"] * 14
    names[8] = "PRO"
    bonded = [i != 5 for i in range(13)]  # residue 6 does not follow residue 5
    donors = set(hydrogen_bonds(template_of(backbone(14), names, bonded))[:, 0])
    assert donors == {4, 5, 7, 9, 10, 11, 12, 13}


def test_recorded_hydrogens_are_used():
    atoms = backbone(14)
    carbonyl = atoms["C"][:-1] - atoms["O"][:-1]
    wrong_side = atoms["N"].copy()
    wrong_side[1:] -= carbonyl / np.linalg.norm(carbonyl, axis=1, keepdims=True)
    bonds = hydrogen_bonds(template_of(atoms | {"H": wrong_side}, ["ALA"] * 14))
    assert not (bonds[:, 0] - bonds[:, 1] == 4).any()


def test_bonds_do_not_depend_on_the_frame():
    helix = template_of(backbone(14), ["ALA"] * 14)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = helix.transformed(turn, np.array([10.0, 20.0, 30.0]))
    np.testing.assert_array_equal(hydrogen_bonds(moved), hydrogen_bonds(helix))


def test_covalent_bonds_stop_at_breaks():
    template = template_of(backbone(5), ["ALA"] * 5, [True, False, True, True])
    np.testing.assert_array_equal(peptide_bonds(template), [(0, 1), (2, 3), (3, 4)])


def test_nucleotides_have_covalent_bonds_only():
    atoms = backbone(6)
    dna = template_of({"C1'": atoms["CA"], "N": atoms["N"], "C": atoms["C"], "O": atoms["O"]}, ["DA"] * 6)
    np.testing.assert_array_equal(backbone_graph(dna), [(i, i + 1) for i in range(5)])


def test_same_bonds_as_mdtraj_in_adenylate_kinase():
    datafiles = pytest.importorskip("MDAnalysisTests.datafiles")
    template = read_template(Path(datafiles.PDB_small))
    # mdtraj places all amide hydrogens itself.
    heavy = np.flatnonzero(np.array(template.elements) != "H")
    template = replace(
        template,
        atom_coordinates=template.atom_coordinates[heavy],
        atom_names=tuple(template.atom_names[row] for row in heavy),
        elements=tuple(template.elements[row] for row in heavy),
        atom_residue=template.atom_residue[heavy],
    )
    expected = np.loadtxt(ORACLE, delimiter=",", skiprows=3, dtype=int)
    np.testing.assert_array_equal(hydrogen_bonds(template), expected)
