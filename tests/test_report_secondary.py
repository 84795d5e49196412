"""Helices and strands: of ideal chains, and of adenylate kinase as its depositors assigned them."""

from dataclasses import replace

import numpy as np
import pytest

from cryomorph.report.secondary import secondary_structure
from cryomorph.structure.model import read_template
from structure_builders import backbone, template_of


def alpha_and_trace(residues, phi, psi):
    atoms = backbone(residues, phi, psi)
    names = ["ALA"] * residues
    return template_of(atoms, names), template_of({"CA": atoms["CA"]}, names)


def test_a_helix_by_bonds_and_by_trace():
    whole, trace = alpha_and_trace(20, -57.8, -47.0)
    assert secondary_structure(whole) == "-" + "H" * 18 + "-"
    by_trace = secondary_structure(trace)
    assert by_trace[3:-3] == "H" * 14
    assert "E" not in by_trace


def test_an_extended_chain_is_a_strand_by_its_trace_but_has_no_bridges():
    whole, trace = alpha_and_trace(12, -119.0, 113.0)
    assert secondary_structure(whole) == "-" * 12
    assert secondary_structure(trace)[2:-2] == "E" * 8


def test_a_chain_break_ends_a_helix():
    atoms = backbone(20)
    bonded = np.ones(19, dtype=bool)
    bonded[9] = False
    found = secondary_structure(template_of(atoms, ["ALA"] * 20, bonded))
    assert found[9:11] == "--"
    assert found.count("H") == 16


def test_chains_are_judged_one_by_one(dimer):
    """The first has a whole backbone, the second its trace alone."""
    keep = (dimer.chain[dimer.atom_residue] == 0) | (np.array(dimer.atom_names) == "CA")
    rows = np.flatnonzero(keep)
    half = replace(
        dimer,
        atom_coordinates=dimer.atom_coordinates[rows],
        atom_names=tuple(dimer.atom_names[row] for row in rows),
        elements=tuple(dimer.elements[row] for row in rows),
        atom_residue=dimer.atom_residue[rows],
    )
    found = secondary_structure(half)
    assert found[:20] == secondary_structure(dimer)[:20]
    assert found[20:].count("H") >= 8


@pytest.fixture(scope="module")
def kinase():
    """Chain A of 4AKE as far as the demonstration's data have it, and what its HELIX and SHEET records say."""
    tests = pytest.importorskip("MDAnalysisTests.datafiles")
    helices = [(13, 24), (31, 40), (44, 54), (61, 73), (90, 98), (113, 121), (161, 187), (202, 213)]
    strands = [(2, 7), (27, 29), (81, 84), (105, 110), (123, 126), (131, 134), (192, 197)]
    expected = np.full(214, "-")
    for letter, stretches in (("H", helices), ("E", strands)):
        for first, last in stretches:
            expected[first - 1 : last] = letter
    return read_template(tests.PDB_small), expected


def test_adenylate_kinase_as_it_was_deposited(kinase):
    template, expected = kinase
    found = np.array(list(secondary_structure(template)))
    assert (found == expected).mean() > 0.85
    ca = np.isin(template.atom_names, ["CA"])
    trace = replace(
        template,
        atom_coordinates=template.atom_coordinates[ca],
        atom_names=("CA",) * len(template),
        elements=("C",) * len(template),
        atom_residue=np.arange(len(template)),
    )
    assert (np.array(list(secondary_structure(trace))) == expected).mean() > 0.75
