"""Images with known truth, from an ensemble of all-atom conformations.

A molecule in ice is a weak phase object: the electrons counted in a pixel are Poisson distributed with the mean
`N (1 - c)`, where `N` is the dose a pixel receives and `c = 2 σ V * h` the contrast, made of the interaction
constant σ, the projected potential V (atoms minus the ice they displace) and the contrast transfer function h. Images
are stored as particle stacks are: protein bright, zero mean far from the molecule, in units of the noise's standard
deviation (`(N - counts) / sqrt(N)`); without noise, as the contrast c itself.

Left out: multiple scattering, the structure of the ice, inelastic scattering, the detector's response.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import mrcfile
import numpy as np
import scipy.fft
import torch
from gemmi import cif
from mrcfile.utils import mode_from_dtype
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.errors import InputError
from cryomorph.files import atomic_path
from cryomorph.geometry import matrix_to_relion, project, random_rotations, superpose
from cryomorph.optics import CTFParameters, ctf, electron_wavelength
from cryomorph.progress import Progress, Silent
from cryomorph.structure.model import Template
from cryomorph.structure.potential import ProjectedPotential, interaction_constant, to_image
from cryomorph.structure.trajectory import Ensemble

_log = logging.getLogger(__name__)

STACK, STAR, TRUTH = "particles.mrcs", "particles.star", "truth.npz"
_BATCH_ELEMENTS = 2**24  # phase factors held at once; a few hundred MB of work space

Array = NDArray[np.float64]
Range = Annotated[
    tuple[float, float], BeforeValidator(lambda value: (value, value) if isinstance(value, int | float) else value)
]
"""Values are drawn uniformly between the two; equal ends, or a single number, give the value."""


class SimulationSettings(Settings):
    """What the images are like."""

    model_config = ConfigDict(allow_inf_nan=False)

    images_per_conformation: int = Field(10, ge=1, description="images of each conformation")
    box: int = Field(128, ge=8, description="pixels along an edge, even or odd")
    pixel_size: float = Field(2.0, gt=0, description="Å per pixel")
    voltage: float = Field(300.0, gt=0, description="acceleration voltage, kV")
    spherical_aberration: float = Field(2.7, ge=0, description="Cs, mm")
    amplitude_contrast: float = Field(0.07, ge=0, le=1, description="share of amplitude contrast")
    defocus: Range = Field(
        (10_000.0, 20_000.0),
        description="mean of U and V in Å, positive for underfocus; range drawn from, or one value",
    )
    astigmatism: Range = Field((0.0, 0.0), description="U - V in Å; range drawn from, or one value")
    astigmatism_angle: float | None = Field(None, description="axis of U in degrees; none: drawn for each image")
    phase_shift: float = Field(0.0, description="of a phase plate, degrees")
    b_factor: float = Field(0.0, ge=0, description="of the envelope exp(-B k²/4), Å²")
    shift: float = Field(0.0, ge=0, description="standard deviation of the Gaussian shift along x and along y, Å")
    dose: float | None = Field(100.0, gt=0, description="electrons per Å², Poisson noise; none: no noise")
    snr_db: float | None = Field(
        None,
        ge=-60,
        le=60,
        description="power of signal over noise in each whole image, decibels, Gaussian noise; replaces the dose",
    )
    solvent: bool = Field(True, description="subtract the vitreous ice that the atoms displace")
    align: bool = Field(False, description="superpose every conformation on the first")
    seed: int = Field(0, ge=0, description="of everything drawn")
    dtype: Literal["float32", "float16"] = Field("float32", description="numbers stored in the stack")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "SimulationSettings":
        for name in ("defocus", "astigmatism"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range starts at {low:g} and ends below it, at {high:g}")
        if self.astigmatism[0] < 0:
            raise ValueError("astigmatism: U - V is at least 0; turn astigmatism_angle by 90 degrees instead")
        return self


@dataclass(frozen=True)
class Particles:
    """What was drawn for each of m images; lengths in Å, `astigmatism_angle` in radians."""

    conformation: NDArray[np.int64]
    rotation: Array
    shift: Array
    defocus_u: Array
    defocus_v: Array
    astigmatism_angle: Array
    half_set: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.conformation)


def simulate(
    ensemble: Ensemble,
    settings: SimulationSettings,
    out: Path,
    *,
    rotations: Array | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Simulate particle images of every conformation of an ensemble.

    Writes `particles.mrcs`, `particles.star` (RELION 3.1) and `truth.npz`: `coordinates` (K, n, 3) residue positions in
    Å in the map frame, `conformation` (M,), `rotation` (M, 3, 3) and `shift` (M, 2) in Å. Images come conformation by
    conformation. The same seed gives the same images, and the same shifts, defocus and half sets for given rotations.

    Parameters
    ----------
    ensemble
        K conformations; `map_frame` says where they are put.
    settings
        What the images are like.
    out
        Folder to write to, made if need be.
    rotations
        Map frame to image frame, shape (M, 3, 3) with M = K × `images_per_conformation`; drawn uniformly without.
    overwrite
        Replace the files of an earlier simulation.
    progress
        Told about every image.

    Returns
    -------
    Path
        The star file.

    Raises
    ------
    InputError
        If files would be overwritten, the disk is too full, the rotations are no rotations, the box does not hold the
        molecule, or its contrast is too strong for the weak phase approximation.
    """
    out = Path(out)
    _refuse_overwriting(out, overwrite)
    ensemble = map_frame(ensemble, align=settings.align)
    particles = draw_particles(len(ensemble.atom_coordinates), settings, rotations)
    _check_box(ensemble, settings)
    _check_space(out, len(particles), settings)
    if "H" not in ensemble.template.elements:
        _log.info("the model has no hydrogens; their scattering and the ice they displace are missing from the images")
    with ExitStack() as files:
        # Renamed in reverse order: a star file is there only when everything else is.
        star, truth, stack = (files.enter_context(atomic_path(out / name)) for name in (STAR, TRUTH, STACK))
        _write_stack(stack, ensemble, particles, settings, progress or Silent())
        _write_truth(truth, ensemble, particles)
        star_document(particles, settings).write_file(str(star))
        (out / STAR).unlink(missing_ok=True)
    return out / STAR


def map_frame(ensemble: Ensemble, *, align: bool = False) -> Ensemble:
    """Put an ensemble in the frame of its images: the mean of all heavy atoms of all conformations is the origin.

    One translation moves all conformations, so that they keep their places relative to each other.

    Parameters
    ----------
    ensemble
        K conformations.
    align
        First superpose each conformation on the first, by its residues (rotation and translation).
    """
    coordinates = ensemble.atom_coordinates.astype(np.float64)
    if align:
        residues = ensemble.residue_coordinates.astype(np.float64)
        rotation, translation = superpose(residues, residues[0])
        coordinates = coordinates @ np.swapaxes(rotation, -1, -2) + translation[:, None]
    heavy = ~np.isin(np.array(ensemble.template.elements), ("H", "D"))
    coordinates -= coordinates[:, heavy].mean((0, 1))
    return replace(ensemble, atom_coordinates=coordinates.astype(np.float32))


def dock(template: Template, coordinates: NDArray[np.floating]) -> Template:
    """Place a template in the map frame: rigidly superposed, by its residues, on the mean of simulated conformations.

    Parameters
    ----------
    template
        A model with n residues.
    coordinates
        Residue positions of the conformations in Å in the map frame, shape (K, n, 3): `coordinates` of `truth.npz`.

    Raises
    ------
    InputError
        If the numbers of residues differ.
    """
    mean = np.asarray(coordinates, dtype=np.float64).mean(0)
    mobile = template.coordinates
    if mobile.shape != mean.shape:
        raise InputError(
            f"the template has {len(mobile)} residues and the conformations have {len(mean)}; "
            "select the same residues of both"
        )
    return template.transformed(*superpose(mobile, mean))


def draw_particles(conformations: int, settings: SimulationSettings, rotations: Array | None = None) -> Particles:
    """Draw pose, defocus and half set of every image.

    Parameters
    ----------
    conformations
        K.
    settings
        `images_per_conformation`, `shift`, `defocus`, `astigmatism`, `astigmatism_angle` and `seed` are used.
    rotations
        Given rotations, shape (M, 3, 3).

    Raises
    ------
    InputError
        If the given rotations are not M rotation matrices.
    """
    generator = np.random.default_rng(settings.seed)
    count = conformations * settings.images_per_conformation
    drawn = random_rotations(count, generator)
    if rotations is not None:
        drawn = _checked_rotations(rotations, count)
    shift = settings.shift * generator.standard_normal((count, 2))
    mean = generator.uniform(*settings.defocus, count)
    half_difference = generator.uniform(*settings.astigmatism, count) / 2
    angle = generator.uniform(0, np.pi, count)
    if settings.astigmatism_angle is not None:
        angle = np.full(count, np.deg2rad(settings.astigmatism_angle))
    return Particles(
        conformation=np.repeat(np.arange(conformations), settings.images_per_conformation),
        rotation=drawn,
        shift=shift,
        defocus_u=mean + half_difference,
        defocus_v=mean - half_difference,
        astigmatism_angle=angle,
        half_set=generator.integers(1, 3, count),
    )


def ctf_parameters(particles: Particles, settings: SimulationSettings) -> CTFParameters:
    """Contrast transfer parameters of all images."""

    def every(value: float) -> Tensor:
        return torch.full((len(particles),), value)

    return CTFParameters(
        defocus_u=torch.from_numpy(particles.defocus_u).float(),
        defocus_v=torch.from_numpy(particles.defocus_v).float(),
        astigmatism_angle=torch.from_numpy(particles.astigmatism_angle).float(),
        voltage=every(settings.voltage),
        spherical_aberration=every(settings.spherical_aberration),
        amplitude_contrast=every(settings.amplitude_contrast),
        phase_shift=every(np.deg2rad(settings.phase_shift)),
        b_factor=every(settings.b_factor),
    )


def contrasts(
    ensemble: Ensemble, particles: Particles, settings: SimulationSettings, batch_size: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield the noise-free contrast of all images in order, in batches (b, D, D); protein is bright.

    They are made in a box large enough for no tail of the contrast transfer function to come back on its other side.

    Parameters
    ----------
    ensemble
        In the map frame.
    particles
        Poses and defocus.
    settings
        Optics and box.
    batch_size
        b; chosen by memory if not given.
    """
    box = _working_box(ensemble, settings)
    first = box // 2 - settings.box // 2
    window = slice(first, first + settings.box)
    potential = ProjectedPotential(ensemble.template.elements, box, settings.pixel_size, settings.solvent)
    strength = 2 * interaction_constant(settings.voltage)
    parameters = ctf_parameters(particles, settings)
    frequency_x = torch.fft.rfftfreq(box, settings.pixel_size)[None, None]
    frequency_y = torch.fft.fftfreq(box, settings.pixel_size)[None, :, None]
    if batch_size is None:
        batch_size = int(np.clip(_BATCH_ELEMENTS // (len(ensemble.template.elements) * box), 1, 32))
    for start in range(0, len(particles), batch_size):
        rows = slice(start, start + batch_size)
        atoms = torch.from_numpy(ensemble.atom_coordinates[particles.conformation[rows]]).float()
        rotation = torch.from_numpy(particles.rotation[rows]).float()
        seen = project(atoms, rotation, torch.from_numpy(particles.shift[rows]).float())
        fourier = strength * potential(seen) * ctf(frequency_x, frequency_y, parameters[rows])
        yield to_image(fourier, box)[:, window, window].numpy()


def add_noise(contrast: NDArray[np.float32], settings: SimulationSettings, image: int) -> NDArray[np.float32]:
    """Add noise to one image and express it in units of the noise's standard deviation.

    Parameters
    ----------
    contrast
        Noise-free, shape (D, D).
    settings
        `dose`, `snr_db`, `pixel_size` and `seed` are used.
    image
        Number of the image; every image has a random stream of its own.

    Raises
    ------
    InputError
        If the contrast reaches 1 (no electron left) and the noise is that of a dose.
    """
    generator = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(image,)))
    if settings.snr_db is not None:
        noise = contrast.std() * 10 ** (-settings.snr_db / 20)
        noisy = contrast / noise + generator.standard_normal(contrast.shape)
        return np.asarray(noisy, dtype=np.float32)
    if settings.dose is None:
        return contrast
    if contrast.max() > 1:
        raise InputError(
            f"image {image + 1}: contrast of {contrast.max():.2f}, more than the weak phase approximation allows; "
            "use larger pixels or a larger b_factor"
        )
    electrons = settings.dose * settings.pixel_size**2
    counts = generator.poisson(electrons * (1 - contrast.astype(np.float64)))
    return np.asarray((electrons - counts) / np.sqrt(electrons), dtype=np.float32)


def star_document(particles: Particles, settings: SimulationSettings) -> cif.Document:
    """Return metadata of simulated images in RELION's 3.1 layout."""
    document = cif.Document()
    optics = {
        "OpticsGroup": ["1"],
        "OpticsGroupName": ["opticsGroup1"],
        "Voltage": [f"{settings.voltage:.6f}"],
        "SphericalAberration": [f"{settings.spherical_aberration:.6f}"],
        "AmplitudeContrast": [f"{settings.amplitude_contrast:.6f}"],
        "ImagePixelSize": [f"{settings.pixel_size:.6f}"],
        "ImageSize": [str(settings.box)],
        "ImageDimensionality": ["2"],
    }
    rot, tilt, psi = matrix_to_relion(particles.rotation)
    count = len(particles)
    columns = {
        "ImageName": [f"{number:06d}@{STACK}" for number in range(1, count + 1)],
        "MicrographName": ["simulated.mrc"] * count,
        "AngleRot": _decimals(rot),
        "AngleTilt": _decimals(tilt),
        "AnglePsi": _decimals(psi),
        "OriginXAngst": _decimals(-particles.shift[:, 0]),
        "OriginYAngst": _decimals(-particles.shift[:, 1]),
        "DefocusU": _decimals(particles.defocus_u),
        "DefocusV": _decimals(particles.defocus_v),
        "DefocusAngle": _decimals(np.rad2deg(particles.astigmatism_angle)),
        "PhaseShift": [f"{settings.phase_shift:.6f}"] * count,
        "OpticsGroup": ["1"] * count,
        "RandomSubset": [str(half) for half in particles.half_set],
    }
    if settings.b_factor > 0:
        columns["CtfBfactor"] = [f"{settings.b_factor:.6f}"] * count
    for name, table in (("optics", optics), ("particles", columns)):
        loop = document.add_new_block(name).init_loop("_rln", list(table))
        loop.set_all_values(list(table.values()))
    return document


def _decimals(values: Array) -> list[str]:
    return [f"{value:.6f}" for value in values + 0.0]  # + 0.0 turns -0 into 0


def _write_stack(
    path: Path, ensemble: Ensemble, particles: Particles, settings: SimulationSettings, progress: Progress
) -> None:
    mode = mode_from_dtype(np.dtype(settings.dtype))
    shape = (len(particles), settings.box, settings.box)
    progress.start("simulating", len(particles))
    with mrcfile.new_mmap(path, shape, mrc_mode=mode, overwrite=True) as stack:
        stack.set_image_stack()
        stack.voxel_size = settings.pixel_size
        image = 0
        for batch in contrasts(ensemble, particles, settings):
            for contrast in batch:
                stack.data[image] = add_noise(contrast, settings, image)
                image += 1
            progress.advance(len(batch))
    progress.finish()


def _write_truth(path: Path, ensemble: Ensemble, particles: Particles) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            coordinates=ensemble.residue_coordinates.astype(np.float32),
            conformation=particles.conformation,
            rotation=particles.rotation,
            shift=particles.shift,
        )


def _reach(ensemble: Ensemble) -> float:
    """Distance in Å of the outermost atom of any conformation from the origin."""
    return float(max(np.linalg.norm(frame, axis=-1).max() for frame in ensemble.atom_coordinates))


def _working_box(ensemble: Ensemble, settings: SimulationSettings) -> int:
    """Pixels a side at which nothing wraps round into the image, rounded up to a size that transforms fast.

    A wave of frequency k is displaced by λ Δf k; the tail of an atom on one edge must not reach the opposite edge of
    the image through the periodic boundary.
    """
    wavelength = float(electron_wavelength(torch.tensor(settings.voltage, dtype=torch.float64)))
    defocus = max(abs(value) for value in settings.defocus) + settings.astigmatism[1] / 2
    tail = wavelength * defocus / (2 * settings.pixel_size)
    needed = settings.box / 2 + (_reach(ensemble) + 3 * settings.shift + tail) / settings.pixel_size
    return int(scipy.fft.next_fast_len(max(settings.box, int(np.ceil(needed))), real=True))


def _refuse_overwriting(out: Path, overwrite: bool) -> None:
    present = [name for name in (STAR, STACK, TRUTH) if (out / name).exists()]
    if present and not overwrite:
        raise InputError(f"{out / present[0]}: exists already; choose another folder, or overwrite")


def _check_box(ensemble: Ensemble, settings: SimulationSettings) -> None:
    reach, half = _reach(ensemble), settings.box * settings.pixel_size / 2
    if reach > half:
        raise InputError(
            f"box: {settings.box} pixels of {settings.pixel_size:g} Å reach {half:.0f} Å from the centre and the "
            f"molecule {reach:.0f} Å; use at least {int(np.ceil(2 * reach / settings.pixel_size))} pixels"
        )


def _check_space(out: Path, count: int, settings: SimulationSettings) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    needed = count * settings.box**2 * np.dtype(settings.dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{out}: {needed / 1e9:.1f} GB of images, {free / 1e9:.1f} GB free; choose another disk")


def _checked_rotations(rotations: Array, count: int) -> Array:
    rotations = np.asarray(rotations, dtype=np.float64)
    if rotations.shape != (count, 3, 3):
        raise InputError(f"rotations: shape {rotations.shape}, expected ({count}, 3, 3), a matrix for every image")
    error = np.abs(rotations @ np.swapaxes(rotations, -1, -2) - np.eye(3)).max((-2, -1))
    third_row = np.cross(rotations[:, 0], rotations[:, 1])
    wrong = np.flatnonzero(~(error < 1e-4) | ~((third_row * rotations[:, 2]).sum(-1) > 0))
    if len(wrong):
        raise InputError(f"rotations: matrix {wrong[0]} (from 0) is no rotation; give orthonormal, right-handed ones")
    return rotations
