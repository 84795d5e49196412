from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from cryomorph.errors import InputError
from cryomorph.geometry import angle_between, random_rotations, rmsd, superpose
from cryomorph.simulate import morph


def chains(template):
    return [template.chain == number for number in range(len(template.chain_names))]


def moved_apart(template, degrees, shift, seed=0, noise=0.0):
    """Each chain turned about its centre by so many degrees around an axis of its own, and displaced."""
    generator = np.random.default_rng(seed)
    atoms = template.atom_coordinates + noise * generator.standard_normal(template.atom_coordinates.shape)
    for rows in chains(template):
        axis = generator.standard_normal(3)
        vector = np.deg2rad(degrees) * axis / np.linalg.norm(axis)
        turn = roma.rotvec_to_rotmat(torch.from_numpy(vector)).numpy()
        inside = rows[template.atom_residue]
        centre = template.coordinates[rows].mean(0)
        atoms[inside] = (atoms[inside] - centre) @ turn.T + centre + shift * generator.standard_normal(3)
    return replace(template, atom_coordinates=atoms, coordinates=atoms[template.representative_atoms])


def test_both_ends_are_the_models(dimer):
    last = moved_apart(dimer, 70, 4, noise=0.3)
    path = morph(dimer, last, 5)
    assert len(path) == 5
    np.testing.assert_allclose(path.atom_coordinates[0], dimer.atom_coordinates, atol=1e-4)
    assert rmsd(path.atom_coordinates[-1].astype(float), last.atom_coordinates) < 1e-4


def test_rigid_chains_stay_rigid_and_turn_evenly(dimer):
    path = morph(dimer, moved_apart(dimer, 120, 5), 7).residue_coordinates
    for rows in chains(dimer):
        start, centres = path[0, rows], path[:, rows].mean(1)
        assert rmsd(path[:, rows], start).max() < 1e-4
        turns = superpose(start, path[:, rows])[0]
        steps = angle_between(turns[1:], turns[:-1])
        np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
        np.testing.assert_allclose(np.diff(centres, 2, axis=0), 0, atol=1e-4)
        assert steps.sum() == pytest.approx(float(angle_between(turns[-1], turns[0])), rel=1e-4)


def test_the_frame_of_the_last_model_does_not_matter(dimer):
    last = moved_apart(dimer, 40, 3, noise=0.2)
    elsewhere = last.transformed(random_rotations(1, np.random.default_rng(1))[0], np.array([30.0, -5.0, 12.0]))
    one, other = (morph(dimer, model, 4).atom_coordinates for model in (last, elsewhere))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_domains_in_place_of_chains(dimer):
    """One domain of everything: two models of the same form do not move."""
    last = dimer.transformed(random_rotations(1, np.random.default_rng(2))[0], np.array([8.0, 0.0, 1.0]))
    path = morph(dimer, last, 3, groups="A+B").residue_coordinates
    np.testing.assert_allclose(path, np.broadcast_to(dimer.coordinates, path.shape), atol=1e-4)


def test_other_atoms_are_refused(dimer):
    names = ("GLY", *dimer.residue_names[1:])
    with pytest.raises(InputError, match="residue names differ"):
        morph(dimer, replace(dimer, residue_names=names), 3)
