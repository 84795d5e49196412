"""Rigid domains, from chains and from what users write."""

import re
from dataclasses import replace

import numpy as np
import pytest

from conftest import helix_model
from cryomorph.errors import InputError
from cryomorph.structure.domains import read_domains
from cryomorph.structure.model import read_template


def rows_of(template, groups=None):
    return {domain.name: domain.rows.tolist() for domain in read_domains(template, groups)}


def test_every_chain_is_a_domain_by_default(dimer):
    assert rows_of(dimer) == {"A": list(range(20)), "B": list(range(20, 32))}


def test_chains_are_split_and_joined(dimer):
    # Residues are numbered from 1 in each chain.
    assert rows_of(dimer, "A:1-5, A:6-20+B") == {"A:1-5": list(range(5)), "A:6-20+B": list(range(5, 32))}
    assert rows_of(dimer, "B,A") == {"B": list(range(20, 32)), "A": list(range(20))}


def test_domains_may_have_several_stretches_and_single_residues(dimer):
    found = rows_of(dimer, "A:1-4+A:20,A:5-19,B")
    assert found["A:1-4+A:20"] == [0, 1, 2, 3, 19]


def test_ranges_reach_over_residues_that_are_not_there(dimer):
    assert rows_of(dimer, "A:-7-900,B:1-12A")["A:-7-900"] == list(range(20))


def test_insertion_codes_follow_the_residue_of_their_number(dimer):
    ids = ("-2", "-1", "1", "1A", "1B", "2", *map(str, range(3, 17)), *dimer.residue_ids[20:])
    inserted = replace(dimer, residue_ids=ids)
    assert rows_of(inserted, "A:-2-1A,A:1B-16,B")["A:-2-1A"] == [0, 1, 2, 3]


def test_a_chain_whose_name_looks_like_a_range_is_a_domain(dimer):
    named = replace(dimer, chain_names=("A:1-2", "B"))
    assert rows_of(named)["A:1-2"] == list(range(20))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("A", "none of them has residues 1 to 12 of chain B"),
        ("A:1-19,B", "none of them has residue 20 of chain A"),
        ("A,B,A:3-6", "both 'A' and 'A:3-6' have residues 3 to 6 of chain A"),
        ("A,C", "no chain 'C'; there are A, B"),
        ("A:1..5,B", "expected a chain and residue numbers such as A:1-120"),
        ("A,B:", "expected a chain and residue numbers"),
        ("A:30-40,A,B", "no such residues in chain A"),
        ("A:9-3,A,B", "no such residues in chain A"),
        ("A:1-2,A:3-20,B", "'A:1-2' has 2 residues; a domain needs at least 3: join it with another in --groups, such"),
        ("", "no chain ''"),
    ],
)
def test_what_is_wrong_is_said(dimer, groups, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_domains(dimer, groups)


def test_a_small_chain_is_joined_with_another_one(tmp_path):
    helix_model({"S": 2, "B": 5, "L": 9}).write_pdb(str(tmp_path / "t.pdb"))
    with pytest.raises(InputError, match=r"t\.pdb: 'S' has 2 residues; .* such as L\+S, or leave it out by --chains"):
        read_domains(read_template(tmp_path / "t.pdb"))


def test_residues_of_many_chains_are_named_in_a_line_of_reasonable_length(tmp_path):
    helix_model(dict.fromkeys("ABCDEFGHIJ", 4)).write_pdb(str(tmp_path / "t.pdb"))
    with pytest.raises(InputError, match=r"1 to 4 of chain B; .* of chain G; and those of 3 more chains; put every"):
        read_domains(read_template(tmp_path / "t.pdb"), "A")


def test_every_residue_is_in_one_domain(dimer):
    rows = np.concatenate([domain.rows for domain in read_domains(dimer, "B:1-6+A:1-3,A:4-20,B:7-12")])
    assert sorted(rows.tolist()) == list(range(32))
