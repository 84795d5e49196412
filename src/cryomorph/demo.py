"""The whole way on data with known truth: the closed-to-open transition of adenylate kinase (paper A's system)."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from cryomorph.analyzing import analyze
from cryomorph.config import parse_config
from cryomorph.errors import InputError
from cryomorph.evaluation import Evaluation
from cryomorph.files import write_text
from cryomorph.progress import Progress
from cryomorph.reporting import NAME as REPORT
from cryomorph.results import evaluate, export_conformations
from cryomorph.simulate import SimulationSettings
from cryomorph.workflows import simulate_images, train

logger = logging.getLogger(__name__)

TRAJECTORY, TOPOLOGY, MODEL = "adk_dims2.dcd", "adk.psf", "adk_open.pdb"
SIMULATION = SimulationSettings(
    images_per_conformation=20, box=96, pixel_size=2.5, dose=100, defocus=(12_000, 20_000), seed=1
)
TRAINING = {"epochs": 30, "batch_size": 32}


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration leaves behind.

    Attributes
    ----------
    evaluation
        Cα RMSD against the truth.
    movie
        The decoded path from closed to open, one conformation each, as mmCIF.
    script
        ChimeraX script that opens movie and template.
    run
        The run folder.
    report
        One page about the run, to open in a browser.
    """

    evaluation: Evaluation
    movie: Path
    script: Path
    run: Path
    report: Path


def demo_data(name: str) -> Path:
    """Return the path of a file of the MDAnalysisTests package, without importing it.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    package = importlib.util.find_spec("MDAnalysisTests")
    if package is None or not package.submodule_search_locations:
        raise InputError("the demo needs the package MDAnalysisTests: pip install 'cryomorph[demo]'")
    return Path(package.submodule_search_locations[0]) / "data" / name


def demo(out: Path, *, progress: Progress | None = None) -> DemoResult:
    """Simulate 2,040 images of adenylate kinase, train on them, evaluate, analyse and export.

    Parameters
    ----------
    out
        Folder for everything; what is there already is used, so that a stopped demo goes on.
    progress
        Told of every step.
    """
    data = out / "data"
    if not (data / "template.cif").is_file():  # written last
        logger.info("simulating images of 102 conformations of adenylate kinase, closed to open")
        simulate_images(
            demo_data(TRAJECTORY),
            data,
            SIMULATION,
            topology=demo_data(TOPOLOGY),
            template=demo_data(MODEL),
            overwrite=True,
            progress=progress,
        )
    config = parse_config(
        {
            "particles": {"path": str(data / "particles.star")},
            "template": {"path": str(data / "template.cif")},
            "training": TRAINING,
        },
        "demo",
    )
    run = train(config.resolved(), out / "run", progress=progress)
    evaluation = evaluate(run.path, data / "truth.npz", progress=progress)
    movie, script = out / "conformations.cif", out / "conformations.cxc"
    every = SIMULATION.images_per_conformation
    export_conformations(run.path, movie, every=every, overwrite=True, progress=progress)
    write_text(script, _chimerax(movie.name))
    analyze(run.path, progress=progress)
    return DemoResult(evaluation, movie, script, run.path, run.path / REPORT)


def _chimerax(movie: str) -> str:
    return "\n".join(
        [
            "# ChimeraX: open this file to see the decoded path; the slider runs through it",
            f"open {movie} coordsets true",
            "open data/template.cif",
            "hide atoms",
            "show #1 cartoons",
            "color #1 bychain",
            "color #2 lightgray",
            "coordset slider #1",
            "view",
            "",
        ]
    )
