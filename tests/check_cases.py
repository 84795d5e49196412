"""Particles of a small molecule without symmetry, and what can be broken about them, as star and cs files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import mrcfile
import numpy as np

from conftest import helix_model
from cryomorph.geometry import matrix_to_cryosparc, matrix_to_relion, relion_to_matrix
from cryomorph.particles.star import read_star
from cryomorph.simulate import SimulationSettings
from cryomorph.workflows import simulate_images
from particle_files import records, write_cs, write_stack, write_star

SETTINGS = SimulationSettings(
    images_per_conformation=60,
    box=36,
    pixel_size=2.5,
    defocus=(8000, 14000),
    snr_db=-6,
    shift=4.0,
    seed=7,
    amplitude_contrast=0.1,
)

PLACES = {"A": ((0, 0, 1), (0, 0, 0)), "B": ((1, 0, 0), (12, 9, 14)), "C": ((0, 1, 0.3), (-10, 14, -12))}
"""Axis of each helix and its middle in Å: no mirror image of the whole is like it."""


def tripod(bend: float = 0.0) -> gemmi.Structure:
    """Three helices; `bend` turns one of them about its end, in degrees."""
    structure = helix_model({"A": 30, "B": 22, "C": 16})
    for chain in structure[0]:
        axis, middle = (np.array(value, dtype=float) for value in PLACES[chain.name])
        axis /= np.linalg.norm(axis)
        if chain.name == "B":
            angle = np.deg2rad(bend)
            axis = np.array([np.cos(angle), np.sin(angle), 0.0])
        aside = np.cross(axis, (0.3, 0.5, 0.8))
        aside /= np.linalg.norm(aside)
        frame = np.stack([aside, np.cross(axis, aside), axis], axis=1)
        atoms = [atom for residue in chain for atom in residue]
        centre = np.mean([atom.pos.tolist() for atom in atoms], axis=0)
        for atom in atoms:
            atom.pos = gemmi.Position(*(frame @ (np.array(atom.pos.tolist()) - centre) + middle))
    return structure


@dataclass(frozen=True, eq=False)
class Particles:
    """What a file says, and the images."""

    images: np.ndarray
    rotation: np.ndarray | None
    origin: np.ndarray
    defocus: np.ndarray
    frame: np.ndarray
    pixel_size: float = SETTINGS.pixel_size
    voltage: float = SETTINGS.voltage
    amplitude: float = SETTINGS.amplitude_contrast
    dark: bool = False

    def poses_of(self, rows: np.ndarray) -> "Particles":
        return replace(self, rotation=self.rotation[rows], origin=self.origin[rows], defocus=self.defocus[rows])

    def rows(self, rows: np.ndarray) -> "Particles":
        return replace(self.poses_of(rows), frame=self.frame[rows])

    def star(self, folder: Path) -> Path:
        self._write_stack(folder)
        count = len(self.frame)
        columns = {
            "rlnImageName": [f"{frame + 1:06d}@stack.mrcs" for frame in self.frame],
            "rlnOriginXAngst": self.origin[:, 0],
            "rlnOriginYAngst": self.origin[:, 1],
            "rlnDefocusU": self.defocus,
            "rlnDefocusV": self.defocus,
            "rlnDefocusAngle": np.zeros(count),
            "rlnOpticsGroup": np.ones(count, dtype=int),
        }
        if self.rotation is not None:
            columns |= dict(
                zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), matrix_to_relion(self.rotation), strict=True)
            )
        optics = {
            "rlnOpticsGroup": "1",
            "rlnVoltage": self.voltage,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": self.amplitude,
            "rlnImagePixelSize": self.pixel_size,
        }
        blocks = {
            "optics": {name: [str(value)] for name, value in optics.items()},
            "particles": {name: [str(value) for value in values] for name, values in columns.items()},
        }
        return write_star(folder / "particles.star", blocks)

    def cs(self, folder: Path) -> Path:
        self._write_stack(folder)
        count = len(self.frame)
        fields = {
            "uid": np.arange(count, dtype="<u8") + 10**18,
            "blob/path": np.array([b"stack.mrcs"] * count),
            "blob/idx": self.frame.astype("<u4"),
            "blob/psize_A": np.full(count, self.pixel_size, "<f4"),
            "blob/sign": np.full(count, 1 if self.dark else -1, "<f4"),
            "ctf/accel_kv": np.full(count, self.voltage, "<f4"),
            "ctf/cs_mm": np.full(count, 2.7, "<f4"),
            "ctf/amp_contrast": np.full(count, self.amplitude, "<f4"),
            "ctf/df1_A": self.defocus.astype("<f4"),
            "ctf/df2_A": self.defocus.astype("<f4"),
            "ctf/df_angle_rad": np.zeros(count, "<f4"),
        }
        if self.rotation is not None:
            fields |= {
                "alignments3D/pose": matrix_to_cryosparc(self.rotation).astype("<f4"),
                "alignments3D/shift": (self.origin / self.pixel_size).astype("<f4"),
            }
        return write_cs(folder / "particles.cs", records(fields))

    def _write_stack(self, folder: Path) -> None:
        write_stack(folder / "stack.mrcs", self.images.astype(np.float32), SETTINGS.pixel_size)


def simulated_tripod(folder: Path) -> Particles:
    """Simulate it in two conformations and read it again; `template.cif` in the folder is the first of them."""
    models = gemmi.Structure()
    for number, bend in enumerate((0.0, 25.0), start=1):
        model = tripod(bend)[0].clone()
        model.num = number
        models.add_model(model)
    models.setup_entities()
    models.write_pdb(str(folder / "ensemble.pdb"))
    tripod().write_pdb(str(folder / "tripod.pdb"))
    simulate_images(folder / "ensemble.pdb", folder, SETTINGS, template=folder / "tripod.pdb")
    table = read_star(folder / "particles.star")
    with mrcfile.open(folder / "particles.mrcs") as file:
        images = file.data.copy()
    order = np.random.default_rng(0).permutation(len(table))  # conformations mixed
    whole = Particles(images[order], table.rotation, -table.shift, table.defocus_u, np.arange(len(table)))
    return replace(whole.poses_of(order), frame=np.arange(len(table)))


def mirrored(particles: Particles, signs: tuple[int, int, int]) -> Particles:
    """Give the poses at which a mirrored molecule would show the same images."""
    seen = particles.rotation[:, :2] * np.array(signs)
    third = np.cross(seen[:, 0], seen[:, 1])
    return replace(particles, rotation=np.concatenate([seen, third[:, None]], axis=1))


def filtered(particles: Particles, change: Callable[[np.ndarray], np.ndarray]) -> Particles:
    """Multiply the Fourier transform of every image by a function of its CTF (no astigmatism)."""
    box = particles.images.shape[-1]
    k2 = np.square(np.fft.fftfreq(box, SETTINGS.pixel_size))[:, None]
    k2 = k2 + np.square(np.fft.rfftfreq(box, SETTINGS.pixel_size))
    wavelength, cs = 0.019687, 2.7e7
    gamma = np.pi * wavelength * particles.defocus[:, None, None] * k2 - 0.5 * np.pi * cs * wavelength**3 * k2**2
    transfer = np.sin(gamma + np.arcsin(SETTINGS.amplitude_contrast))
    return replace(particles, images=np.fft.irfft2(np.fft.rfft2(particles.images) * change(transfer), s=(box, box)))


def spoiled(particles: Particles, value: float) -> Particles:
    images = particles.images.copy()
    images[::30] = value
    return replace(particles, images=images)


def copied(particles: Particles) -> Particles:
    images = particles.images.copy()
    images[11::20] = images[10::20]
    return replace(particles, images=images)


def everything(particles: Particles) -> np.ndarray:
    return np.arange(len(particles.frame))


def top_views(particles: Particles) -> Particles:
    """Give views within 30° of z."""
    angles = np.random.default_rng(6).uniform((0, 0, 0), (360, 30, 360), (len(particles.frame), 3))
    return replace(particles, rotation=relion_to_matrix(*angles.T))


HEALTHY: dict[str, Callable[[Particles], Particles]] = {
    "as it is": lambda p: p,
    "pixel size 1 % off": lambda p: replace(p, pixel_size=1.01 * p.pixel_size),
    "rows shuffled with their images": lambda p: p.rows(np.random.default_rng(3).permutation(everything(p))),
}

BROKEN: dict[str, tuple[str, Callable[[Particles], Particles], str]] = {
    "inverted": ("contrast", lambda p: replace(p, images=-p.images), "--invert"),
    "no poses, inverted": ("contrast", lambda p: replace(p, images=-p.images, rotation=None), "--invert"),
    "mirrored z": ("hand", lambda p: mirrored(p, (1, 1, -1)), "rlnAngleTilt"),
    "mirrored x": ("hand", lambda p: mirrored(p, (-1, 1, 1)), "hand"),
    "inverse": ("rotations", lambda p: replace(p, rotation=np.swapaxes(p.rotation, 1, 2)), "alignments3D/pose"),
    "upside down": (
        "rotations",
        lambda p: replace(p, images=np.roll(p.images[:, ::-1], 1, 1)),  # about pixel D // 2
        "rows of each image",
    ),
    "pixel size +15 %": ("pixel size", lambda p: replace(p, pixel_size=1.15 * p.pixel_size), "--pixel-size"),
    "pixel size x 1.5": ("pixel size", lambda p: replace(p, pixel_size=1.5 * p.pixel_size), "--pixel-size"),
    "defocus < 0": ("CTF", lambda p: replace(p, defocus=-p.defocus), "by -1"),
    "defocus in nm": ("CTF", lambda p: replace(p, defocus=0.1 * p.defocus), "by 10"),
    "phase-flipped": ("CTF", lambda p: filtered(p, np.sign), "extract"),
    "amplitude contrast": ("CTF columns", lambda p: replace(p, amplitude=0.9), "rlnAmplitudeContrast"),
    "one row on": ("row order", lambda p: p.poses_of(np.roll(everything(p), 1)), "rlnImageName"),
    "one row back": ("row order", lambda p: p.poses_of(np.roll(everything(p), -1)), "rlnImageName"),
    "reversed": ("row order", lambda p: p.poses_of(everything(p)[::-1]), "rlnImageName"),
    "shuffled": ("docking", lambda p: p.poses_of(np.random.default_rng(4).permutation(everything(p))), "rows"),
    "constant": ("dead images", lambda p: spoiled(p, 3.0), "--indices"),
    "NaN": ("dead images", lambda p: spoiled(p, np.nan), "--indices"),
    "copies": ("duplicates", copied, "duplicates"),
    "rows twice": ("duplicates", lambda p: p.rows(np.concatenate([everything(p), everything(p)[::3]])), "duplicates"),
    "one orientation": (
        "orientations",
        lambda p: replace(p, rotation=np.broadcast_to(np.eye(3), p.rotation.shape)),
        "--poses search",
    ),
    "top views": ("orientations", top_views, "tilted"),
    "shifts < 0": ("shifts", lambda p: replace(p, origin=-p.origin), "by -1"),
    "shifts swapped": ("shifts", lambda p: replace(p, origin=p.origin[:, ::-1]), "swap"),
    "shifts in pixels": ("shifts", lambda p: replace(p, origin=p.origin / p.pixel_size), "pixel size"),
    "shifts in Å": ("shifts", lambda p: replace(p, origin=p.origin * p.pixel_size), "rlnOriginXAngst"),
}
