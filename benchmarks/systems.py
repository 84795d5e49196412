"""Molecules and images of given sizes for the benchmarks of speed: adenylate kinase, and assemblies of its copies."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import gemmi
import numpy as np
import torch

from cryomorph.demo import demo_data
from cryomorph.geometry import random_rotations
from cryomorph.optics import CTFParameters
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.model import Template, read_template

SPACING = 42.0
"""Å between the middles of neighbouring copies: they touch."""


@dataclass(frozen=True)
class System:
    """So many residues, in copies of adenylate kinase on a lattice of so many places along each axis."""

    residues: int
    places: tuple[int, int, int]


SYSTEMS = {
    "adk": System(214, (1, 1, 1)),
    "nsp13": System(590, (2, 2, 1)),  # SARS-CoV-2 helicase
    "spike": System(3363, (2, 2, 4)),  # SARS-CoV-2 spike trimer, resolved residues
}


def template_of(system: str) -> Template:
    """Return the template of a system, its mean at the origin."""
    wanted = SYSTEMS[system]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{system}.cif"
        _assembly(wanted).make_mmcif_document().write_file(str(path))
        template = read_template(path)
    assert len(template) == wanted.residues
    return template


def _assembly(system: System) -> gemmi.Structure:
    """Put copies of adenylate kinase side by side, the last one cut to the number of residues."""
    source = gemmi.read_structure(str(demo_data("adk_open.pdb")))[0]
    protein = [residue for chain in source for residue in chain if any(atom.name == "CA" for atom in residue)]
    assembly, model = gemmi.Structure(), gemmi.Model(1)
    lattice = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in system.places)), -1).reshape(-1, 3) * SPACING
    left = system.residues
    for number, place in enumerate(lattice):
        if left == 0:
            break
        chain = gemmi.Chain(f"A{number}")
        for residue in protein[: min(left, len(protein))]:
            chain.add_residue(residue)
        left -= len(chain)
        middle = np.mean([atom.pos.tolist() for residue in chain for atom in residue], axis=0)
        for residue in chain:
            for atom in residue:
                atom.pos = gemmi.Position(*(np.array(atom.pos.tolist()) - middle + place))
        model.add_chain(chain)
    assembly.add_model(model)
    assembly.setup_entities()
    return assembly


def make_batch(images: int, box: int, pixel_size: float, seed: int = 0) -> ParticleBatch:
    """Noise images with random poses, and a defocus of 1 to 2 µm of their own; no astigmatism."""
    generator = np.random.default_rng(seed)

    def every(value: float) -> torch.Tensor:
        return torch.full((images,), value)

    defocus = torch.from_numpy(generator.uniform(1e4, 2e4, images)).float()
    optics = CTFParameters(defocus, defocus, every(0), every(300), every(2.7), every(0.07), every(0), every(0))
    return ParticleBatch(
        index=torch.arange(images),
        image=torch.from_numpy(generator.standard_normal((images, box, box))).float(),
        pixel_size=every(pixel_size),
        optics_group=torch.zeros(images, dtype=torch.int64),
        rotation=torch.from_numpy(random_rotations(images, generator)).float(),
        shift=torch.zeros(images, 2),
        ctf=optics,
    )
