"""The decoders with a given form: normal modes of the molecule, rigid motions and modes of chains."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from conftest import helix_model
from cryomorph.conformations.chains import Chains, ChainsSettings, rotation_of
from cryomorph.conformations.nma import NMA, NMASettings
from cryomorph.errors import InputError
from cryomorph.structure.model import read_template
from cryomorph.structure.modes import displaced, rigid_motions, template_modes

A, B = slice(0, 20), slice(20, 32)  # rows of the chains of the dimer


def chains(template, **settings):
    """Latents are coordinates in Å."""
    return Chains(ChainsSettings(adapt=False, **settings), template)


def latents(model, **blocks):
    """Zeros but for blocks such as modes_A=[...]."""
    z = torch.zeros(1, model.latent_dim)
    for name, values in blocks.items():
        block = model.latent_blocks()[name.replace("_", " ")]
        z[0, block][: len(values)] = torch.tensor(values)
    return z


def moved(model, z):
    with torch.no_grad():
        return model.displacement(z)[0].double().numpy()


def rms(displacement):
    return np.sqrt(np.square(displacement).sum(-1).mean())


def distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def test_a_mode_moves_residues_by_its_amplitude_along_its_vector(dimer):
    model = NMA(NMASettings(modes=7, adapt=False), dimer)
    expected = template_modes(dimer, 7).vectors[4]
    displacement = moved(model, latents(model, modes=[0, 0, 0, 0, 1.5]))
    assert rms(displacement) == pytest.approx(1.5, rel=1e-5)
    np.testing.assert_allclose(displacement, 1.5 * np.sqrt(32) * expected, atol=1e-5)


def test_modes_add_up(dimer):
    model = NMA(NMASettings(adapt=False), dimer)
    first, second = latents(model, modes=[1.0, -2.0]), latents(model, modes=[0.0, 0.5, 3.0])
    both = moved(model, first + second)
    np.testing.assert_allclose(both, moved(model, first) + moved(model, second), atol=1e-5)


def test_modes_of_the_molecule_neither_turn_nor_move_it(dimer):
    model = NMA(NMASettings(modes=1000, adapt=False), dimer)
    assert model.latent_dim == 3 * 32 - 6  # all there are
    displacement = moved(model, torch.randn(1, model.latent_dim)).ravel()
    assert np.abs(rigid_motions(dimer.coordinates).T @ displacement).max() < 1e-4


def test_paper_b_and_its_ablations_by_settings(dimer):
    def blocks(**settings):
        return {name: (block.start, block.stop) for name, block in chains(dimer, **settings).latent_blocks().items()}

    assert blocks(modes=5) == {
        "modes A": (0, 5), "rotation A": (5, 11), "translation A": (11, 14),
        "modes B": (14, 19), "rotation B": (19, 25), "translation B": (25, 28),
    }  # fmt: skip
    assert blocks(modes=5, rigid="none") == {"modes A": (0, 5), "modes B": (5, 10)}
    assert blocks(modes=0, rigid="rotation") == {"rotation A": (0, 6), "rotation B": (6, 12)}
    assert list(blocks(modes=0)) == ["rotation A", "translation A", "rotation B", "translation B"]
    # Of 12 residues there are no more than 30 modes.
    assert blocks()["modes B"] == (59, 89)


def test_modes_of_a_chain_are_those_of_the_chain_alone(dimer):
    model = chains(dimer, modes=4, rigid="none")
    displacement = moved(model, latents(model, modes_B=[0.0, 2.0]))
    expected = template_modes(dimer, 4, rows=np.arange(20, 32)).vectors[1]
    assert np.abs(displacement[A]).max() < 1e-6
    np.testing.assert_allclose(displacement[B], 2 * np.sqrt(12) * expected, atol=1e-5)


def test_rotations_turn_a_chain_about_its_centre_as_a_body(dimer):
    model = chains(dimer, modes=0, rigid="rotation")
    x = dimer.coordinates + moved(model, 30 * torch.randn(1, model.latent_dim))
    for rows in (A, B):
        np.testing.assert_allclose(distances(x[rows]), distances(dimer.coordinates[rows]), atol=1e-4)
        np.testing.assert_allclose(x[rows].mean(0), dimer.coordinates[rows].mean(0), atol=1e-4)
    assert rms(x - dimer.coordinates) > 3


def test_translations_move_all_residues_of_a_chain_alike(dimer):
    model = chains(dimer, modes=0)
    displacement = moved(model, latents(model, translation_A=[1.0, -2.0, 3.0]))
    np.testing.assert_allclose(displacement[A], np.tile([1.0, -2.0, 3.0], (20, 1)), atol=1e-5)
    assert np.abs(displacement[B]).max() < 1e-6


def test_coordinates_of_a_rotation_are_displacements_at_the_radius_of_gyration(dimer):
    model = chains(dimer, modes=0, rigid="rotation")
    centred = dimer.coordinates[A] - dimer.coordinates[A].mean(0)
    radius = np.sqrt(np.square(centred).sum(1).mean())
    # The first vector leaves the x axis towards y, the second the y axis towards -x: a turn about z.
    displacement = moved(model, latents(model, rotation_A=[0.0, 0.02, 0.0, -0.02, 0.0, 0.0]))[A]
    np.testing.assert_allclose(displacement, np.cross([0, 0, 0.02 / radius], centred), atol=1e-4)


def test_a_chain_is_deformed_then_turned_then_moved(dimer):
    """Against the equation, in double precision and without the package's parts."""
    torch.manual_seed(3)
    model = chains(dimer, modes=6)
    z = 3 * torch.randn(1, model.latent_dim)
    found = moved(model, z)
    start = 0
    for rows in (A, B):
        x = dimer.coordinates[rows]
        modes = template_modes(dimer, 6, rows=np.arange(32)[rows]).vectors
        part = z[0, start : start + 15].double().numpy()
        deformed = x - x.mean(0) + np.sqrt(len(x)) * np.tensordot(part[:6], modes, axes=1)
        radius = np.sqrt(np.square(x - x.mean(0)).sum(1).mean())
        u, v = np.eye(2, 3) + 2 * np.tanh(part[6:12].reshape(2, 3) / radius / 2)
        u = u / np.linalg.norm(u)
        v = v - (v @ u) * u
        v = v / np.linalg.norm(v)
        rotation = np.stack([u, v, np.cross(u, v)], axis=1)
        expected = deformed @ rotation.T + x.mean(0) + part[12:]
        np.testing.assert_allclose(found[rows] + x, expected, atol=2e-5)
        start += 15


def test_rotations_are_rotations_and_none_for_zeros():
    torch.manual_seed(0)
    rotation = rotation_of(5 * torch.randn(200, 6, dtype=torch.float64))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(200, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(200, dtype=torch.float64))
    torch.testing.assert_close(rotation_of(torch.zeros(1, 6))[0], torch.eye(3))
    # Half a turn can be reached.
    half = rotation_of(torch.tensor([[-9.0, 0, 0, 0, -9.0, 0]]))[0]
    torch.testing.assert_close(half, torch.diag(torch.tensor([-1.0, -1.0, 1.0])), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "vectors", [[[0, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0]], [[1, 0, 0], [1.0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
)
def test_vectors_that_are_no_axes_of_a_rotation_spoil_nothing(vectors):
    """Half way to the opposite direction a vector has no length."""
    away = torch.tensor(vectors, dtype=torch.float64) - torch.eye(2, 3)
    pair = (2 * torch.atanh(away / 2)).view(1, 6).requires_grad_()
    rotation = rotation_of(pair)
    assert torch.isfinite(rotation).all()
    rotation.square().sum().backward()
    assert torch.isfinite(pair.grad).all()


def test_half_precision_does_not_round_coordinates(dimer):
    for model in (NMA(NMASettings(modes=9), dimer), Chains(ChainsSettings(modes=4), dimer)):
        z = 20 * torch.randn(3, model.latent_dim)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(z)
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, model(z))


def test_chains_in_any_order_of_the_file_move_their_own_residues(tmp_path):
    helix_model({"B": 12, "A": 20}).write_pdb(str(tmp_path / "reversed.pdb"))
    template = read_template(tmp_path / "reversed.pdb")
    assert template.chain_names == ("B", "A")
    model = chains(template, modes=0)
    displacement = moved(model, latents(model, translation_B=[5.0]))
    assert np.flatnonzero(displacement[:, 0] > 4).tolist() == list(range(12))


def test_a_molecule_of_one_chain_turns_and_deforms(helix):
    model = chains(helix, modes=5)
    assert list(model.latent_blocks()) == ["modes A", "rotation A", "translation A"]
    x = helix.coordinates + moved(model, latents(model, rotation_A=[0.0, 9.0], translation_A=[1.0]))
    np.testing.assert_allclose(distances(x), distances(helix.coordinates), atol=1e-4)
    np.testing.assert_allclose(x.mean(0), helix.coordinates.mean(0) + np.array([1, 0, 0]), atol=1e-4)


@pytest.mark.parametrize("adapt", [True, False])
def test_a_path_of_conformations_is_followed(dimer, adapt):
    """Turns by up to 80 degrees with a deformation: other coordinates find it, or the latents themselves."""
    turns = Rotation.from_rotvec(np.linspace(0, 80, 6)[:, None] * [0, 0.6, 0.8], degrees=True).as_matrix()
    centre = dimer.coordinates[B].mean(0)
    path = np.tile(dimer.coordinates, (6, 1, 1))
    path[:, A] = displaced(dimer.coordinates[A], template_modes(dimer, 1, rows=np.arange(20)), [[d] for d in range(6)])
    path[:, B] = (path[:, B] - centre) @ turns.swapaxes(1, 2) + centre
    path = torch.from_numpy(path).float()
    model = Chains(ChainsSettings(modes=3, adapt=adapt), dimer)
    z = model.follow(path)
    with torch.no_grad():
        assert rms((model(z) - path).numpy()) < 0.01
        middle = model(z.mean(0, keepdim=True)) - path.mean(0)
    assert rms(middle.numpy()) < 1.5
    if adapt:  # what was not needed keeps its width, and what was is no further out than latents usually are
        assert z.square().mean(0).max() < 1.001
        assert z[:, model.latent_blocks()["translation A"]].abs().max() < 0.05
    else:
        assert z.abs().max() > 2


def test_gradients_of_rigid_motions_and_modes_are_their_slopes(dimer):
    model = chains(dimer, modes=3).double()
    z = torch.randn(2, model.latent_dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.displacement, (z,))


def test_domains_in_any_order_move_their_own_residues(dimer):
    model = chains(dimer, modes=0, groups="B:1-6+A:1-10,A:11-20,B:7-12")
    displacement = moved(model, latents(model, **{"translation_B:1-6+A:1-10": [5.0]}))
    assert np.flatnonzero(displacement[:, 0] > 4).tolist() == [*range(10), *range(20, 26)]
    assert list(model.latent_blocks())[2:4] == ["rotation A:11-20", "translation A:11-20"]


def test_a_domain_that_is_not_there_is_refused(dimer):
    with pytest.raises(InputError, match="no chain 'C'"):
        chains(dimer, groups="A,B,C")


def test_a_decoder_in_which_nothing_moves_is_refused():
    with pytest.raises(ValueError, match="nothing moves"):
        ChainsSettings(modes=0, rigid="none")


@pytest.mark.parametrize("made", [lambda t: NMA(NMASettings(modes=5), t), lambda t: Chains(ChainsSettings(modes=5), t)])
def test_modes_are_kept_with_the_weights(dimer, made):
    """A machine that finds another basis of degenerate modes decodes what another one learned."""
    learned, other = made(dimer), made(dimer)
    for buffer in other.buffers():
        if buffer.ndim == 2 and buffer.shape[0] == 5:
            buffer.neg_()
    z = torch.randn(3, learned.latent_dim)
    assert not torch.equal(other(z), learned(z))
    other.load_state_dict(learned.state_dict())
    assert torch.equal(other(z), learned(z))


def test_latents_start_as_a_spread_about_the_template_that_soft_modes_share(dimer):
    model = NMA(NMASettings(modes=20), dimer)
    assert torch.equal(model(torch.zeros(1, 20))[0], model.template)
    displacement = model.displacement(torch.randn(4000, 20, generator=torch.Generator().manual_seed(0))).detach()
    assert float(displacement.square().sum(-1).mean().sqrt()) == pytest.approx(0.3, rel=0.02)
    eigenvalue = template_modes(dimer, 20).eigenvalue
    each = model.displacement(torch.eye(20)).square().sum(-1).mean(-1).sqrt().detach().numpy()
    np.testing.assert_allclose(each / each[0], np.sqrt(eigenvalue[0] / eigenvalue), rtol=1e-4)


def test_what_particles_have_in_common_is_learned_only_when_asked(dimer):
    adaptive, fixed = NMA(NMASettings(modes=3), dimer), NMA(NMASettings(modes=3, adapt=False), dimer)
    for model in (adaptive, fixed):
        nn.init.constant_(model.spread.centre, 0.1)
    z = torch.zeros(1, 3)
    assert np.linalg.norm(moved(adaptive, z)) > 1
    assert np.linalg.norm(moved(fixed, z)) == 0
    assert all(weight.requires_grad for weight in adaptive.parameters())
    assert not any(weight.requires_grad for weight in fixed.parameters())


def test_a_centre_is_learned_from_all_particles(dimer):
    """Least squares on conformations that share a turn of one chain and differ along a mode."""
    torch.manual_seed(0)
    truth = chains(dimer, modes=2)
    rows = torch.randn(40, 1) * torch.eye(truth.latent_dim)[0]
    rows = rows + latents(truth, translation_B=[4.0, 0.0, -3.0], rotation_B=[0.0, 3.0])
    with torch.no_grad():
        targets = truth(rows)
    model = Chains(ChainsSettings(modes=2), dimer)
    z = torch.zeros(40, model.latent_dim, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": 3e-3}, {"params": [z], "lr": 0.1}])
    for _ in range(400):
        optimizer.zero_grad()
        (model(z) - targets).square().mean().backward()
        optimizer.step()
    model.requires_grad_(False)
    z = z.detach()
    assert float((model(z) - targets).square().sum(-1).mean().sqrt()) < 0.1
    assert float((model(torch.zeros(1, model.latent_dim)) - targets).square().sum(-1).mean().sqrt()) < 1.3
