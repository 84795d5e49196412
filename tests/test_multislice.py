"""Multislice images: against abTEM, against the projection in the weak limit, and what must be conserved."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from command_line import refused
from cryomorph.errors import InputError
from cryomorph.optics import electron_wavelength
from cryomorph.particles.star import read_star
from cryomorph.simulate import draw_particles, images, map_frame, multislice, simulate
from cryomorph.simulate.detector import read_transfer
from cryomorph.simulate.ice import IceField, blurred, left_of_field, molecules_per_volume, power_of_layer, shape
from cryomorph.simulate.slices import SlicePotentials, propagator, transmitted
from cryomorph.structure.potential import ice_potential, interaction_constant
from test_simulate import make_ensemble, make_settings, one_atom

CPU = torch.device("cpu")
WAVELENGTH = float(electron_wavelength(torch.tensor(300.0)))
VACUUM = {"ice": 0.0, "focal_spread": 0.0, "illumination": 0.0, "slice": 2.0, "sampling": 0.7}

# Made with abTEM 1.0.11: Potential(ase.Atoms(SYMBOLS, PLACES, cell=[16, 16, 20]), gpts=(512, 512), slice_thickness=2,
# parametrization="peng", projection="infinite"), PlaneWave(energy=300e3).multislice(potential), and of the wave its
# Fourier coefficients up to 1/Å, the sum over all samples divided by their number.
ORACLE = Path(__file__).parent / "oracles" / "abtem_exit_wave.csv"
SYMBOLS = ("C", "N", "O", "S", "C", "P", "C", "O")
PLACES = [
    [9.096, 6.158, 15.811],
    [4.328, 4.132, 10.663],
    [10.506, 11.302, 6.795],
    [8.853, 9.836, 8.763],
    [8.349, 11.481, 2.453],
    [10.527, 4.022, 3.989],
    [10.859, 4.269, 12.73],
    [9.837, 5.405, 12.355],
]


def waves(settings, **physics):
    """Return the settings with other ones of the wave."""
    return settings.model_copy(update={"multislice": settings.multislice.model_copy(update=physics)})


def one_by_one(molecules, settings, particles=None):
    particles = draw_particles(len(molecules), settings) if particles is None else particles
    return np.concatenate(list(multislice.contrasts(molecules, particles, settings, device=CPU)))


def test_the_exit_wave_is_abtems():
    size, sampling = 128, 0.125
    slices = SlicePotentials(
        SYMBOLS,
        size,
        sampling,
        solvent=False,
        b_factor=np.zeros(len(SYMBOLS)),
        occupancy=np.ones(len(SYMBOLS)),
        device=CPU,
    )
    # Our grid's origin is its middle, and slices are about z = 0.
    potential, _ = slices(torch.tensor(PLACES) - torch.tensor([8.0, 8.0, 10.0]), 2.0, 10)
    step = propagator(size, sampling, WAVELENGTH, CPU)(2.0)
    wave = torch.ones(size, size, dtype=torch.complex64)
    for layer in potential:
        passed = transmitted(layer, interaction_constant(300.0), 0.0)
        wave = torch.fft.ifft2(torch.fft.fft2(wave * passed) * step)
    kx, ky, real, imag = np.loadtxt(ORACLE, delimiter=",", skiprows=1).T
    found = (torch.fft.fft2(wave) / size**2).numpy()[ky.astype(int), kx.astype(int)]
    expected = real + 1j * imag
    scattered = np.linalg.norm(expected[(kx != 0) | (ky != 0)])
    assert np.linalg.norm(found - expected) < 0.006 * scattered  # theirs has finer samples, but is interpolated


@pytest.mark.parametrize(
    "optics",
    [
        {"defocus": 12_000.0, "spherical_aberration": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0},
        {"defocus": -9_000.0, "astigmatism": 3_000.0, "phase_shift": 40.0, "b_factor": 60.0},
        {"phase_shift": 90.0},
    ],
)
def test_a_weak_thin_object_looks_like_its_projection(monkeypatch, optics):
    """What differs is of second order: a tenth of the potential brings the relative difference to a tenth."""
    settings = make_settings(box=40, pixel_size=2.0, images_per_conformation=2, shift=2.0, solvent=False, **optics)
    settings = waves(settings, **VACUUM)
    flat = map_frame(make_ensemble(1))
    particles = draw_particles(1, settings)
    expected = np.concatenate(list(images.contrasts(flat, particles, settings)))
    differences = []
    for strength in (1.0, 0.1):
        monkeypatch.setattr(
            multislice, "interaction_constant", lambda voltage, s=strength: s * interaction_constant(voltage)
        )
        found = one_by_one(flat, settings, particles) / strength
        # What is scattered by nothing cannot be told from what was not scattered: a phase plate turns it as well.
        found += (expected - found).mean((1, 2), keepdims=True)
        differences.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert differences[0] < 0.2
    assert differences[1] < max(0.15 * differences[0], 0.01)  # thickness and single precision remain


def test_the_propagator_keeps_electrons_and_adds_up():
    over = propagator(64, 0.5, WAVELENGTH, CPU)
    generator = torch.Generator().manual_seed(0)
    wave = torch.fft.fft2(torch.randn(64, 64, dtype=torch.complex64, generator=generator)) * over(0.0)
    further = wave * over(300.0)
    torch.testing.assert_close(further.abs().square().sum(), wave.abs().square().sum())
    torch.testing.assert_close(wave * over(100.0) * over(200.0), further, rtol=0, atol=1e-4 * wave.abs().max().item())
    torch.testing.assert_close(further * over(-300.0), wave, rtol=0, atol=1e-4 * wave.abs().max().item())


def test_a_pure_phase_object_keeps_electrons():
    generator = torch.Generator().manual_seed(0)
    potential = 300 * torch.randn(32, 32, generator=generator)
    torch.testing.assert_close(transmitted(potential, 6.5e-4, 0.0).abs(), torch.ones(32, 32))
    absorbed = transmitted(potential, 6.5e-4, 0.1).abs()
    torch.testing.assert_close(absorbed, torch.exp(-6.5e-5 * potential))


def test_further_along_the_beam_is_more_underfocus():
    """An atom at +z is nearer to the exit, so that it needs the more defocus to look the same."""
    optics = make_settings(
        box=48, pixel_size=1.5, images_per_conformation=1, defocus=4000.0, phase_shift=0.0, solvent=False
    )
    optics = waves(optics, **VACUUM)
    low, high = (one_atom("S", [[0.0, 0.0, z]]) for z in (-19.0, 19.0))
    more = optics.model_copy(update={"defocus": (4038.0, 4038.0)})

    def image(atom, settings):
        particles = draw_particles(1, settings, np.eye(3)[None])
        return next(multislice.contrasts(atom, particles, settings, extent=30.0, device=CPU))

    np.testing.assert_allclose(image(high, optics), image(low, more), atol=2e-3 * abs(image(high, optics)).max())
    assert np.abs(image(high, optics) - image(low, optics)).max() > 0.02 * np.abs(image(high, optics)).max()


def test_envelopes_of_partial_coherence(monkeypatch):
    """Of a weak object, each frequency is weakened by the envelope of its wave."""
    monkeypatch.setattr(multislice, "interaction_constant", lambda voltage: 0.3 * interaction_constant(voltage))
    settings = make_settings(box=128, pixel_size=1.5, images_per_conformation=1, defocus=9000.0, phase_shift=0.0)
    particles = draw_particles(1, settings, np.eye(3)[None])
    # The box is so large that nothing of the wave is cut off.
    atom = one_atom("C", [[0.0, 0.0, 0.0]])

    def spectrum(**coherence):
        return np.fft.fft2(one_by_one(atom, waves(settings, **VACUUM | coherence), particles)[0])

    k = np.hypot(*np.meshgrid(np.fft.fftfreq(128, 1.5), np.fft.fftfreq(128, 1.5)))
    plain = spectrum()
    ring = np.digitize(k, np.linspace(0.02, 0.3, 15))

    def weakened(values):
        """How far each ring is weakened, by least squares."""
        together = np.bincount(ring.ravel(), (plain.conj() * values).real.ravel())
        return (together / np.bincount(ring.ravel(), np.abs(plain.ravel()) ** 2))[1:-1]

    temporal = np.exp(-0.5 * (np.pi * WAVELENGTH * 150.0 * k**2) ** 2)
    spatial = np.exp(-((np.pi * 3e-4 * 9000.0 * k) ** 2))
    for name, value, envelope in (("focal_spread", 150.0, temporal), ("illumination", 0.3, spatial)):
        expected = weakened(plain * envelope)
        assert expected.min() < 0.8
        np.testing.assert_allclose(weakened(spectrum(**{name: value})), expected, atol=0.01)


def test_damage_blurs_atoms_by_the_mean_of_the_exposure(monkeypatch):
    monkeypatch.setattr(multislice, "interaction_constant", lambda voltage: 0.3 * interaction_constant(voltage))
    settings = make_settings(box=64, pixel_size=1.5, images_per_conformation=1, dose=40.0)
    atom, particles = one_atom("C", [[0.0, 0.0, 0.0]]), draw_particles(1, settings, np.eye(3)[None])
    plain, damaged = (
        np.fft.fft2(one_by_one(atom, waves(settings, **VACUUM, damage=damage), particles)[0]) for damage in (0.0, 2.0)
    )
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1.5), np.fft.fftfreq(64, 1.5)))
    seen = np.abs(plain) > 0.3 * np.abs(plain).max()
    np.testing.assert_allclose((damaged / plain)[seen], np.exp(-0.25 * 2.0 * 20.0 * k**2)[seen], atol=0.02)


def test_ice_has_the_spectrum_and_the_variance_of_its_molecules():
    size, sampling, thickness = 128, 0.8, 5.0
    ice = IceField(size, sampling, thickness, 0.0, CPU)
    field = ice.draw(200, torch.Generator().manual_seed(0))
    assert abs(float(field.mean())) < 1e-3 * float(field.std())
    assert float(field.var()) == pytest.approx(ice.variance, rel=0.01)
    power = torch.fft.fft2(field).abs().square().mean(0) * (sampling / size) ** 2  # (V Å)² Å²
    k = torch.hypot(torch.fft.fftfreq(size, sampling)[None], torch.fft.fftfreq(size, sampling)[:, None])
    for low in (0.05, 0.2, 0.3, 0.345, 0.45):
        ring = (k >= low) & (k < low + 0.02)
        expected = power_of_layer() * thickness * shape(k[ring]).mean()
        assert float(power[ring].mean()) == pytest.approx(float(expected), rel=0.05)
    peak = 0.199 * np.exp(-0.5 * (1 / 2.88 / 0.731) ** 2) + 0.801
    assert float(shape(torch.tensor(1 / 2.88))) == pytest.approx(peak)


def test_molecules_at_random_have_the_variance_of_the_field():
    """Up to 1/Å, per Å of thickness: a plain sum over frequencies of ρ |p(k)|², p of water's free atoms."""
    a = {"H": ([0.0349, 0.1201, 0.1970, 0.0573, 0.1195], [0.5347, 3.5867, 12.3471, 18.9525, 38.6269])}
    a["O"] = ([0.0974, 0.2921, 0.6910, 0.6990, 0.2039], [0.2067, 1.3815, 4.6943, 12.7105, 32.4726])
    k = np.linspace(0, 1, 20_001)
    water = sum(
        n * 47.878 * sum(x * np.exp(-y * k**2 / 4) for x, y in zip(*a[element], strict=True))
        for element, n in (("O", 1), ("H", 2))
    )
    density = 0.94 / 18.015 * 0.60221
    assert molecules_per_volume() == pytest.approx(density, rel=1e-3)
    at_random = np.trapezoid(density * water**2 * 2 * np.pi * k, k)
    field = np.trapezoid(power_of_layer() * shape(torch.from_numpy(k)).numpy() * 2 * np.pi * k, k)
    assert field == pytest.approx(at_random, rel=1e-3)
    assert density * water[0] == pytest.approx(ice_potential(), rel=1e-3)


def test_water_that_moves_is_averaged_out():
    frequency, displacement = torch.tensor([0.0, 0.01, 0.05, 0.3]), 110.0
    rate = 0.5 * (2 * np.pi * frequency.numpy()) ** 2 * displacement / 3
    moments = np.linspace(0, 1, 2001)
    apart = np.abs(moments[:, None] - moments)
    expected = [np.exp(-a * apart).mean() for a in rate]
    np.testing.assert_allclose(blurred(frequency, displacement), expected, rtol=2e-3)
    assert (blurred(frequency, 0.0) == 1).all()


def test_ice_gives_way_to_what_stands_in_it():
    left = left_of_field(torch.tensor([0.0, 1.0, 5.0, 9.0]), 5.0)
    torch.testing.assert_close(left, torch.tensor([1.0, 1 - 2 / 15, 1 / 3, 1 / 3]))


def test_slices_add_up_to_the_projection_and_displaced_volume():
    generator = np.random.default_rng(0)
    positions = torch.from_numpy(generator.uniform(-8, 8, (40, 3))).float()
    make = {"b_factor": np.zeros(40), "occupancy": np.ones(40), "device": CPU}
    plain = SlicePotentials(("C",) * 40, 64, 0.5, solvent=False, **make)
    displacing = SlicePotentials(("C",) * 40, 64, 0.5, solvent=True, **make)
    thin, volume = plain(positions, 2.0, 8)
    whole, _ = plain(positions, 100.0, 1)
    torch.testing.assert_close(thin.sum(0), whole[0], rtol=0, atol=1e-4 * whole.max().item())
    assert float(volume.sum()) * 0.25 == pytest.approx(40 * 16.44, rel=1e-3)
    torch.testing.assert_close(
        displacing(positions, 2.0, 8)[0], thin - ice_potential() * volume, rtol=0, atol=1e-3 * thin.max().item()
    )


def test_images_on_disk_have_the_noise_of_their_electrons(tmp_path):
    settings = make_settings(
        box=48,
        pixel_size=2.0,
        physics="multislice",
        defocus=15_000.0,
        phase_shift=0.0,
        dose=60.0,
        multislice={"ice": 0},
    )
    star = simulate(make_ensemble(1), settings, tmp_path)
    with mrcfile.open(tmp_path / "particles.mrcs") as stack:
        corner = stack.data[:, :10, :10]
    assert corner.std() == pytest.approx(1, abs=0.1)
    assert abs(corner.mean()) < 0.1
    assert len(read_star(star)) == 4


def test_ice_makes_images_noisier_and_the_seed_makes_it_again():
    ensemble = map_frame(make_ensemble(1))
    settings = make_settings(box=32, pixel_size=2.0, defocus=15_000.0, phase_shift=0.0, images_per_conformation=3)
    with_ice, without = (one_by_one(ensemble, waves(settings, ice=ice, slice=10.0)) for ice in (60.0, 0.0))
    assert with_ice.std() > 2 * without.std()
    np.testing.assert_array_equal(one_by_one(ensemble, waves(settings, ice=60.0, slice=10.0)), with_ice)
    assert (with_ice[0] - with_ice[1]).std() > with_ice.std()  # each image has ice of its own


def test_a_detector_passes_less_of_high_frequencies(tmp_path):
    path = tmp_path / "mtf.star"
    rows = "".join(f"{f:.2f} {1 - f:.2f}\n" for f in np.arange(0, 0.51, 0.05))
    path.write_text(f"data_mtf\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n{rows}")
    passed = read_transfer(path)(torch.tensor([0.0, 0.125, 0.5]))
    torch.testing.assert_close(passed, torch.tensor([1.0, 0.875, 0.5]))
    settings = make_settings(box=32, pixel_size=2.0, images_per_conformation=1, defocus=8000.0, phase_shift=0.0)
    atom, particles = one_atom("S", [[1.0, 0.0, 0.0]]), draw_particles(1, settings)
    plain, seen = (
        np.fft.fft2(one_by_one(atom, waves(settings, **VACUUM, mtf=mtf), particles)[0]) for mtf in (None, path)
    )
    high = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))) > 0.2
    assert np.abs(seen[high]).sum() < 0.85 * np.abs(plain[high]).sum()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nothing", "cannot be read as a star file|has no transfer function"),
        ("data_x\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.3 0.5\n", "must ascend to 0.5"),
        ("data_x\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.5 half\n", "is no number"),
    ],
)
def test_a_detector_that_cannot_be_read_is_told(tmp_path, text, problem):
    path = tmp_path / "mtf.star"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_transfer(path)


def test_options_of_multislice_want_multislice(cryomorph, tmp_path):
    refused(cryomorph("simulate", "model.pdb", "--out", tmp_path / "out", "--ice", "100"), "--physics multislice")
