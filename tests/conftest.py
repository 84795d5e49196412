"""Small molecules and particle sets that tests share."""

import os

# Tests compare bits: the number of threads must not depend on the machine. For small molecules one is fastest.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

# Triton looks at this when it is imported, and much of what follows imports it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gemmi
import numpy as np
import pytest

from command_line import Result
from cryomorph.cli import main
from cryomorph.config import parse_config
from cryomorph.console import console
from cryomorph.simulate import SimulationSettings
from cryomorph.structure.model import Template, read_template
from cryomorph.workflows import simulate_images, train
from small_runs import folder_state, run_settings

torch.set_num_threads(1)

SEQUENCE = ("MET", "ARG", "GLY", "PHE", "LEU", "SER", "LYS", "ALA", "GLU", "TRP", "THR", "VAL")


def helix_model(chains: dict[str, int]) -> gemmi.Structure:
    """Ideal α-helices side by side, backbone and a Cβ, one chain for each entry (name: residues)."""
    # Cylindrical coordinates (radius Å, angle °, height Å) of an α-helix: 100° and 1.5 Å a residue.
    atoms = {
        "N": (1.55, -27.6, -0.90),
        "CA": (2.29, 0.0, 0.0),
        "C": (1.66, 26.3, 1.10),
        "O": (1.96, 24.5, 2.30),
        "CB": (3.30, -19.0, 0.65),
    }
    structure = gemmi.Structure()
    model = gemmi.Model(1)
    for number, (name, residues) in enumerate(chains.items()):
        chain = gemmi.Chain(name)
        for i in range(residues):
            residue = gemmi.Residue()
            residue.name = SEQUENCE[i % len(SEQUENCE)]
            residue.seqid = gemmi.SeqId(str(i + 1))
            for atom_name, (radius, angle, height) in atoms.items():
                if residue.name == "GLY" and atom_name == "CB":
                    continue
                turn = np.deg2rad(100 * i + angle)
                atom = gemmi.Atom()
                atom.name = atom_name
                atom.element = gemmi.Element(atom_name[0])
                atom.pos = gemmi.Position(
                    radius * np.cos(turn) + 10 * (number - (len(chains) - 1) / 2),
                    radius * np.sin(turn),
                    1.5 * (i - residues / 2) + height,
                )
                atom.occ, atom.b_iso = 1.0, 20.0
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    return structure


@pytest.fixture
def helix_file(tmp_path: Path) -> Path:
    """A single 24-residue helix as a PDB file, centred on the origin."""
    path = tmp_path / "helix.pdb"
    helix_model({"A": 24}).write_pdb(str(path))
    return path


@pytest.fixture
def helix(helix_file: Path) -> Template:
    """A single 24-residue helix."""
    return read_template(helix_file)


@pytest.fixture
def dimer(tmp_path: Path) -> Template:
    """Two helices of 20 and 12 residues in chains A and B."""
    path = tmp_path / "dimer.pdb"
    helix_model({"A": 20, "B": 12}).write_pdb(str(path))
    return read_template(path)


BEND_RADIUS = 28.0
"""Å; the two conformations of `simulated` are a helix bent to either side, the template is the straight one."""


def bent(structure: gemmi.Structure, radius: float) -> gemmi.Structure:
    """Wrap what lies along z around a circle in the plane of x and z; a negative radius bends to the other side."""
    structure = structure.clone()
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                angle = atom.pos.z / radius
                reach = radius + atom.pos.x
                atom.pos = gemmi.Position(reach * np.cos(angle) - radius, atom.pos.y, reach * np.sin(angle))
    return structure


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 48 clear images of two conformations: particles.star, particles.mrcs, truth.npz, template.cif."""
    folder = tmp_path_factory.mktemp("simulated")
    straight = helix_model({"A": 24})
    straight.write_pdb(str(folder / "straight.pdb"))
    models = gemmi.Structure()
    for number, radius in enumerate((BEND_RADIUS, -BEND_RADIUS), start=1):
        model = bent(straight, radius)[0].clone()
        model.num = number
        models.add_model(model)
    models.setup_entities()
    models.write_pdb(str(folder / "ensemble.pdb"))
    settings = SimulationSettings(
        images_per_conformation=24, box=24, pixel_size=2.5, defocus=(5000, 8000), snr_db=6, shift=1.0, seed=5
    )
    simulate_images(folder / "ensemble.pdb", folder, settings, template=folder / "straight.pdb")
    return folder


@pytest.fixture(scope="session")
def finished(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two epochs on `simulated`; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(parse_config(run_settings(simulated), "test"), out)
    return out


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    out = tmp_path / "run"
    out.mkdir()
    for name, content in folder_state(finished).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return out


@pytest.fixture
def cryomorph(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Result]]:
    """The command, in this process: `cryomorph("train", ...)` gives exit code, stdout and stderr."""
    logger = logging.getLogger("cryomorph")
    before = logger.handlers, logger.level, logger.propagate
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["cryomorph", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Result(code, *capsys.readouterr())

    yield call
    logger.handlers, logger.level, logger.propagate = before
    console.quiet = False


@pytest.fixture
def resolved(monkeypatch, tmp_path, cryomorph):
    """The configuration that the command line arrives at, without training."""
    seen = []

    def no_training(config, out, **rest):
        seen.append(config)
        return type("Run", (), {"path": out})

    monkeypatch.setattr("cryomorph.workflows.train", no_training)

    def call(*arguments):
        result = cryomorph("train", *arguments, "--out", tmp_path / "run")
        assert result.code == 0, result.err
        return seen[-1]

    return call
