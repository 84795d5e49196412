import gemmi
import numpy as np
import pytest

from cryomorph.analysis.requests import read_requests
from cryomorph.errors import InputError
from cryomorph.structure.model import read_template
from ensembles import linear_ensemble, surveyed

RANDOM = 20 * np.random.default_rng(0).standard_normal((6, 24, 3))


def one(template, **asked):
    (request,) = read_requests(template, **asked)
    return request


def positions(coordinates, rows):
    return [gemmi.Position(*coordinates[row]) for row in rows]


def test_a_distance_is_that_between_two_residues(helix):
    request = one(helix, distances=["A:2,A:20"])
    assert request.name == "distance_A2_A20"
    np.testing.assert_allclose(request.measure(RANDOM), np.linalg.norm(RANDOM[:, 1] - RANDOM[:, 19], axis=1))


def test_angles_are_gemmis(helix):
    request = one(helix, angles=["A:1, A:5, A:9"])
    assert request.name == "angle_A1_A5_A9"
    expected = [np.rad2deg(gemmi.calculate_angle(*positions(x, (0, 4, 8)))) for x in RANDOM]
    np.testing.assert_allclose(request.measure(RANDOM), expected)


def test_dihedrals_are_gemmis(helix):
    request = one(helix, dihedrals=["A:1,A:5,A:9,A:24"])
    expected = [np.rad2deg(gemmi.calculate_dihedral(*positions(x, (0, 4, 8, 23)))) for x in RANDOM]
    np.testing.assert_allclose(request.measure(RANDOM), expected)
    assert min(expected) < 0 < max(expected)


def test_straight_and_folded_angles(helix):
    x = np.zeros((1, 24, 3))
    x[0, :4, 0] = [0, 1, 2, -1]
    straight, folded = read_requests(helix, angles=["A:1,A:2,A:3", "A:1,A:2,A:4"])
    assert straight.measure(x) == pytest.approx(180)
    assert folded.measure(x) == pytest.approx(0, abs=1e-9)


def test_requests_are_found_of_every_particle(helix):
    direction = np.zeros((1, 24, 3))
    direction[0, 19] = 1.5 * (helix.coordinates[19] - helix.coordinates[1])
    z = np.linspace(0, 1, 12)[:, None]
    found = surveyed(linear_ensemble(helix, z, direction), 2, distances=["A:2,A:20"], angles=["A:1,A:2,A:3"])
    rest = np.linalg.norm(helix.coordinates[19] - helix.coordinates[1])
    np.testing.assert_allclose(found.measured["distance_A2_A20"], rest * (1 + 1.5 * z[:, 0]), rtol=1e-5)
    assert list(found.measured) == ["distance_A2_A20", "angle_A1_A2_A3"]
    assert np.ptp(found.measured["angle_A1_A2_A3"]) < 1e-3


def test_the_same_request_twice_is_one(helix):
    assert len(read_requests(helix, distances=["A:1,A:2", "A:1,A:2"])) == 1


@pytest.fixture
def renumbered(helix_file, tmp_path):
    """Residues 1 to 4 become -1, 0, 52 and 52A; chain A becomes `heavy`, in mmCIF the author's name of chain X."""
    structure = gemmi.read_structure(str(helix_file))
    chain = structure[0][0]
    for residue, (number, code) in zip(chain, [(-1, " "), (0, " "), (52, " "), (52, "A")], strict=False):
        residue.seqid = gemmi.SeqId(number, code)
    for number, residue in enumerate(list(chain)[4:], start=60):
        residue.seqid = gemmi.SeqId(number, " ")
    chain.name = "heavy"
    for residue in chain:
        residue.subchain = "X"
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "renumbered.cif"))
    return read_template(tmp_path / "renumbered.cif")


def test_numbers_are_the_files_own_with_insertion_codes(renumbered):
    request = one(renumbered, dihedrals=["heavy:-1,heavy:52,heavy:52A,heavy:61"])
    assert request.rows.tolist() == [0, 2, 3, 5]
    assert request.name == "dihedral_heavy_1_heavy52_heavy52A_heavy61"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("distances", "A:1", r"--distance 'A:1': expected 2 residues"),
        ("distances", "A:1,A:2,A:3", "expected 2 residues"),
        ("angles", "A:1,A:2", "--angle 'A:1,A:2': expected 3 residues"),
        ("dihedrals", "A:1,A:2,A:3", "expected 4 residues"),
        ("distances", "A:1,B:2", r"no chain 'B'; there are A$"),
        ("distances", "A:1,A:99", r"no residue A:99; chain A goes from 1 to 24"),
        ("distances", "A:1,A:5A", "no residue A:5A"),
        ("distances", "A1,A:2", "'A1': expected a chain and a residue"),
        ("distances", "A:1-4,A:9", "'A:1-4': expected a chain and a residue"),
        ("distances", "A:3,A:3", "names a residue twice"),
        ("distances", "", "expected 2 residues"),
    ],
)
def test_what_cannot_be_meant_is_refused(helix, kind, text, message):
    with pytest.raises(InputError, match=message):
        read_requests(helix, **{kind: [text]})
