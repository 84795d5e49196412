import re

import numpy as np
import pytest
import torch

from cryomorph.errors import InputError
from cryomorph.structure.beads import bead_model, frame_sources
from cryomorph.structure.grouping import CALPHA_TABLE, ELECTRONS_PER_SCATTERING
from cryomorph.structure.scattering import atomic_variance, forward_scattering
from structure_builders import backbone, template_of

HEAVY_ATOMS = {
    "GLY": "C2NO", "ALA": "C3NO", "SER": "C3NO2", "CYS": "C3NOS", "VAL": "C5NO", "THR": "C4NO2", "PRO": "C5NO",
    "ILE": "C6NO", "LEU": "C6NO", "ASP": "C4NO3", "ASN": "C4N2O2", "GLU": "C5NO3", "GLN": "C5N2O2", "MET": "C5NOS",
    "LYS": "C6N2O", "HIS": "C6N3O", "PHE": "C9NO", "ARG": "C6N4O", "TYR": "C9NO2", "TRP": "C11N2O",
}  # fmt: skip


def alanines(count=8, bonded=None):
    """Helix with a side-chain atom off the backbone."""
    atoms = backbone(count)
    side = np.cross(atoms["N"] - atoms["CA"], atoms["C"] - atoms["CA"])
    atoms["CB"] = atoms["CA"] + 1.5 * side / np.linalg.norm(side, axis=1, keepdims=True)
    return template_of(atoms, ["ALA"] * count, bonded)


def side_chain(atoms, count):
    """Atoms in a row that leads away from the Cα, 1.5 Å apart."""
    away = np.cross(atoms["N"] - atoms["CA"], atoms["C"] - atoms["CA"])
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    names = ["CB", "CG", "CD", "CE"][:count]
    return atoms | {name: atoms["CA"] + 1.5 * (place + 1) * away for place, name in enumerate(names)}


def as_batch(coordinates, dtype=torch.float32):
    return torch.as_tensor(coordinates, dtype=dtype).reshape(-1, coordinates.shape[-2], 3)


def rigid_motion(seed=0):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return rotation * np.sign(np.linalg.det(rotation)), np.array([5.0, -3.0, 20.0])


def test_table_of_the_paper():
    beads = bead_model(template_of(backbone(3), ["ARG", "HSD", "TRP"]), "ca")(torch.zeros(2, 3, 3))
    assert beads.amplitude.tolist() == [85.0, 72.0, 98.0]
    np.testing.assert_allclose(beads.width, [2.15, 1.90, 2.15], rtol=1e-6)


def test_scattering_is_taken_to_the_unit_of_the_table_by_least_squares():
    scattering = [
        sum(forward_scattering(element) * int(count or 1) for element, count in re.findall(r"([A-Z])(\d*)", formula))
        for formula in HEAVY_ATOMS.values()
    ]
    electrons = [CALPHA_TABLE[name][0] for name in HEAVY_ATOMS]
    assert len(electrons) == len(CALPHA_TABLE) == 20
    fitted = np.dot(scattering, electrons) / np.dot(scattering, scattering)
    assert pytest.approx(ELECTRONS_PER_SCATTERING, abs=1e-3) == fitted


def test_calpha_beads_are_the_coordinates():
    template = alanines()
    coordinates = as_batch(template.coordinates)
    torch.testing.assert_close(bead_model(template, "ca")(coordinates).positions, coordinates)


def test_unknown_residue_scatters_by_its_atoms_in_the_unit_of_the_table():
    beads = bead_model(template_of(backbone(3), ["UNK"] * 3), "ca")(torch.zeros(1, 3, 3))
    expected = 3.131 * sum(map(forward_scattering, "NCCO"))
    np.testing.assert_allclose(beads.amplitude, expected, rtol=1e-6)
    bare = bead_model(template_of({"CA": backbone(3)["CA"]}, ["UNK"] * 3), "ca")(torch.zeros(1, 3, 3))
    np.testing.assert_allclose(bare.amplitude, np.mean([row[0] for row in CALPHA_TABLE.values()]), rtol=1e-3)


def test_atom_beads_are_the_heavy_atoms():
    atoms = backbone(6)
    template = template_of(atoms | {"HA": atoms["CA"] + 1.0}, ["GLY"] * 6)
    beads = bead_model(template, "atom")(as_batch(template.coordinates))
    heavy = [row for row, element in enumerate(template.elements) if element != "H"]
    np.testing.assert_allclose(beads.positions[0], template.atom_coordinates[heavy], atol=1e-4)
    np.testing.assert_allclose(
        beads.amplitude, [forward_scattering(template.elements[row]) for row in heavy], rtol=1e-6
    )
    np.testing.assert_allclose(beads.width[1] ** 2, atomic_variance("C"), rtol=1e-5)


def test_residue_beads_are_backbone_and_side_chain():
    template = alanines()
    beads = bead_model(template, "residue")(as_batch(template.coordinates))
    assert beads.positions.shape == (1, 16, 3)
    names, weight = np.array(template.atom_names), np.array([forward_scattering(e) for e in template.elements])
    rows = (template.atom_residue == 3) & (names != "CB")
    centre = np.average(template.atom_coordinates[rows], axis=0, weights=weight[rows])
    np.testing.assert_allclose(beads.positions[0, 6], centre, atol=1e-4)
    np.testing.assert_allclose(beads.positions[0, 7], template.named_atoms("CB")[3], atol=1e-4)
    assert beads.amplitude[6].item() == pytest.approx(weight[rows].sum(), rel=1e-6)
    spread = np.average(np.square(template.atom_coordinates[rows] - centre).mean(1), weights=weight[rows])
    own = np.average([atomic_variance(name[0]) for name in names[rows]], weights=weight[rows])
    assert beads.width[6].item() == pytest.approx(np.sqrt(spread + own), rel=1e-6)


def test_all_kinds_scatter_alike():
    template = alanines()
    parts = [bead_model(template, kind)(as_batch(template.coordinates)) for kind in ("residue", "atom")]
    centres = [(part.amplitude[:, None] * part.positions[0]).sum(0) / part.amplitude.sum() for part in parts]
    torch.testing.assert_close(parts[0].amplitude.sum(), parts[1].amplitude.sum())
    torch.testing.assert_close(centres[0], centres[1], atol=1e-4, rtol=0)


def test_glycine_has_no_side_chain_and_nucleotides_have_three_parts():
    assert bead_model(template_of(backbone(4), ["GLY"] * 4), "residue").amplitude.shape == (4,)
    atoms = backbone(4)
    parts = {"P": atoms["N"], "OP1": atoms["N"] + 1, "C1'": atoms["CA"], "O5'": atoms["C"], "N1": atoms["O"]}
    beads = bead_model(template_of(parts, ["DA"] * 4), "residue")
    expected = [forward_scattering("P") + forward_scattering("O"), forward_scattering("C") + forward_scattering("O")]
    np.testing.assert_allclose(beads.amplitude[:3], [*expected, forward_scattering("N")], rtol=1e-6)


@pytest.mark.parametrize("kind", ["ca", "residue", "atom"])
def test_equivariant_under_rigid_motions(kind):
    template = alanines()
    rotation, translation = rigid_motion()
    model = bead_model(template, kind)
    bent = template.coordinates + np.random.default_rng(1).normal(size=(8, 3)) * 0.5
    here = model(as_batch(bent, torch.float64)).positions
    there = model(as_batch(bent @ rotation.T + translation, torch.float64)).positions
    np.testing.assert_allclose(there[0], here[0].numpy() @ rotation.T + translation, atol=1e-9)


def test_each_conformation_of_a_batch_stands_alone():
    template = alanines()
    model = bead_model(template, "residue")
    conformations = as_batch(template.coordinates[None] + np.random.default_rng(2).normal(size=(3, 8, 3)))
    together = model(conformations).positions
    for conformation, expected in zip(conformations, together, strict=True):
        torch.testing.assert_close(model(conformation[None]).positions[0], expected)


@pytest.mark.parametrize("kind", ["residue", "atom"])
def test_gradient(kind):
    model = bead_model(alanines(5), kind)
    coordinates = as_batch(alanines(5).coordinates[None] + np.random.default_rng(3).normal(size=(2, 5, 3)) * 0.3)
    assert torch.autograd.gradcheck(lambda x: model(x).positions, coordinates.double().requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("kind", ["residue", "atom"])
def test_compiled_frames_are_the_plain_ones(kind):
    template = alanines(9, bonded=[True] * 4 + [False, True, True, False])
    model = bead_model(template, kind, freedom=1.0)
    torch.nn.init.normal_(model.deviation, generator=torch.Generator().manual_seed(5))
    x = as_batch(template.coordinates).repeat(3, 1, 1) + torch.randn(
        3, 9, 3, generator=torch.Generator().manual_seed(3)
    )
    x[1, 3] = 0.5 * (x[1, 2] + x[1, 4])  # three on a line
    x[2, 2] = x[2, 4]  # no length to divide by
    outer = torch.randn(model.positions(x).shape, generator=torch.Generator().manual_seed(4))
    results = []

    def plain(leaf):
        return model._plain_positions(leaf, model.offset + model.spread * model.deviation)

    for place in (model.positions, plain):
        leaf, model.deviation.grad = x.clone().requires_grad_(), None
        positions = place(leaf)
        positions.backward(outer)
        results.append((positions.detach(), leaf.grad, model.deviation.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_side_chains_may_be_elsewhere_more_than_backbones_and_the_more_the_longer_they_are():
    lysine, alanine = (
        bead_model(template_of(side_chain(backbone(5), reach), [name] * 5), "residue", 1.0)
        for name, reach in (("LYS", 4), ("ALA", 1))
    )
    assert lysine.spread[:, 0].tolist() == pytest.approx([0.1, 0.2 + 0.25 * (1.5 * 2.5 - 1.5)] * 5, abs=1e-6)
    assert alanine.spread[:, 0].tolist() == pytest.approx([0.1, 0.2] * 5, abs=1e-6)


def test_places_in_residues_cost_what_a_normal_distribution_of_that_spread_says():
    template = alanines(5)
    model, still = (bead_model(template, "residue", freedom) for freedom in (2.0, 0.0))
    x = as_batch(template.coordinates)
    assert float(model.cost().detach()) == 0
    assert torch.equal(model(x).positions, still(x).positions)
    with torch.no_grad():
        model.deviation[3] = torch.tensor([1.0, -2.0, 0.5])  # a side chain, whose spread is 2 × 0.2 Å
    moved = (model(x).positions - still(x).positions)[0].detach()
    np.testing.assert_allclose(moved.norm(dim=-1), [0, 0, 0, 0.4 * 5.25**0.5, *[0] * 6], atol=1e-5)
    assert float(model.cost().detach()) == pytest.approx(0.5 * 5.25)
    assert not list(filter(lambda weight: weight.requires_grad, still.parameters()))


def test_frames_do_not_cross_breaks_and_short_stretches_have_none():
    bonded = [True, True, True, False, True, False, True, True]  # stretches of 4, 2 and 3 residues
    template = alanines(9, bonded)
    assert frame_sources(template).tolist() == [1, 1, 2, 2, -1, -1, 7, 7, 7]
    model = bead_model(template, "residue")
    base = as_batch(template.coordinates)
    moved = base.clone()
    moved[0, 4:6] += torch.tensor([1.0, 2.0, 3.0])
    change = model(moved).positions - model(base).positions
    expected = torch.zeros(18, 3)
    expected[8:12] = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(change[0], expected, atol=1e-5, rtol=0)


def test_straight_stretches_have_bounded_values_and_gradients():
    model = bead_model(alanines(5), "atom")
    line = torch.zeros(1, 5, 3)
    line[0, :, 0] = 3.8 * torch.arange(5)
    for coordinates in (line, torch.zeros(1, 5, 3)):
        coordinates = coordinates.clone().requires_grad_()
        positions = model(coordinates).positions
        positions.square().sum().backward()
        assert torch.isfinite(positions).all()
        assert torch.isfinite(coordinates.grad).all()


def test_a_straight_template_keeps_its_atoms():
    atoms = backbone(4)
    shift = np.stack([3.8 * np.arange(4.0), np.zeros(4), np.zeros(4)], axis=1) - atoms["CA"]
    template = template_of({name: positions + shift for name, positions in atoms.items()}, ["GLY"] * 4)
    beads = bead_model(template, "atom")(as_batch(template.coordinates))
    np.testing.assert_allclose(beads.positions[0], template.atom_coordinates, atol=1e-4)


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match="'ca', 'residue' or 'atom'"):
        bead_model(alanines(), "blob")
