"""The `cryomorph` command: parses, calls, prints."""

import errno
import os
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

import cryomorph.conformations as conformation_models
import cryomorph.latents as latent_sources
import cryomorph.likelihood as likelihoods
import cryomorph.poses as pose_sources
from cryomorph import __version__
from cryomorph.errors import InputError

LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL")
"""What a process says when another one of the same run is gone."""

app = typer.Typer(
    name="cryomorph",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The atomic conformation in every particle of a single-particle cryo-EM data set.",
)

Particles = Annotated[
    Path | None,
    typer.Argument(
        help="RELION .star or cryoSPARC .cs file, with CTF, and poses unless --poses finds them.", show_default=False
    ),
]
Run = Annotated[Path, typer.Argument(help="Run folder that train wrote.", show_default=False)]
IndicesFile = Annotated[
    Path | None, typer.Option(help="File with rows from 0: .npy, or text with one number a line.", show_default=False)
]


def _kinds(package: ModuleType) -> str:
    """List the kinds of a component by the names of their files, without importing them."""
    return ", ".join(
        info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "base" and info.name[0] != "_"
    )


def _option(text: str, **more: Any) -> Any:
    # Help is rendered as rich markup, where brackets must be escaped.
    return typer.Option(help=text.replace("[", "\\["), show_default=False, **more)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cryomorph {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Handle what comes before a command."""


@app.command()
def train(
    particles: Particles = None,
    template: Annotated[Path | None, _option("Atomic model, PDB or mmCIF, docked into the consensus map.")] = None,
    out: Annotated[Path | None, _option("Run folder to write; a stopped run there is continued.")] = None,
    config: Annotated[Path | None, _option("YAML file with any of these settings; options here override it.")] = None,
    datadir: Annotated[Path | None, _option("Folder that image paths are relative to.")] = None,
    strip_prefix: Annotated[str | None, _option("Leading part of image paths to drop.")] = None,
    passthrough: Annotated[Path | None, _option("cryoSPARC passthrough .cs file with the remaining fields.")] = None,
    box: Annotated[int | None, _option("Fourier-crop images to this many pixels.", min=16)] = None,
    first: Annotated[int | None, _option("Use the first N particles only.", min=1)] = None,
    indices: Annotated[Path | None, _option("Use these rows only (from 0): .npy or text file.")] = None,
    pixel_size: Annotated[float | None, _option("Pixel size in Å, overriding the file's.")] = None,
    invert: Annotated[bool | None, _option("Flip the contrast: for images with dark protein.")] = None,
    chains: Annotated[str | None, _option("Chains of the template to use, e.g. A,B [default: all].")] = None,
    template_frame: Annotated[
        str | None, _option("Where the map's origin is: auto, centre or corner of the box [default: auto].")
    ] = None,
    beads: Annotated[str | None, _option("Scatterers: ca, residue or atom [default: residue].")] = None,
    decoder: Annotated[
        str | None, _option(f"Conformation model: {_kinds(conformation_models)} [default: gnn].")
    ] = None,
    latent_dim: Annotated[int | None, _option("Number of latent coordinates [default: 8].", min=1)] = None,
    latents: Annotated[
        str | None, _option(f"Where latents come from: {_kinds(latent_sources)} [default: variational].")
    ] = None,
    latent_prior: Annotated[float | None, _option("Strength of the latents' normal prior [default: 1].")] = None,
    poses: Annotated[str | None, _option(f"Where poses come from: {_kinds(pose_sources)} [default: known].")] = None,
    shift_range: Annotated[
        float | None, _option("Search particles up to this far, in Å, from where the file says [default: 0].", min=0)
    ] = None,
    library: Annotated[
        list[Path] | None, _option("Another model of the same residues to compare images with; can be repeated.")
    ] = None,
    likelihood: Annotated[
        str | None, _option(f"How images are compared: {_kinds(likelihoods)} [default: matched_filter].")
    ] = None,
    calibration: Annotated[
        str | None,
        _option("What is estimated in each Fourier shell: none, noise, signal or both [default: both]."),
    ] = None,
    prior_strength: Annotated[
        float | None,
        _option("Overall strength of the geometric priors, in nats per unit of paper A's sum [default: 100]."),
    ] = None,
    r2: Annotated[
        float | None, _option("Weight of the log-distance prior R2; 0 leaves it out [default: 0.01].")
    ] = None,
    epochs: Annotated[int | None, _option("Passes over all images [default: 30].", min=1)] = None,
    batch: Annotated[int | None, _option("Images a step, in each process [default: 32].", min=1)] = None,
    learning_rate: Annotated[float | None, _option("Of the network [default: 0.003].")] = None,
    latent_learning_rate: Annotated[float | None, _option("Of the latents [default: 0.2].")] = None,
    accelerator: Annotated[str | None, _option("auto, cpu or cuda [default: auto].")] = None,
    devices: Annotated[int | None, _option("GPUs, or processes on a CPU [default: 1].", min=1)] = None,
    precision: Annotated[str | None, _option("auto, 32-true or bf16-mixed [default: auto].")] = None,
    seed: Annotated[int | None, _option("Seed of all random numbers [default: 0].", min=0)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Fail unless there is a stopped run to continue.")] = False,
) -> None:
    """Find the conformation of every particle."""
    from cryomorph.config import parse_config, read_yaml
    from cryomorph.console import ProgressBar, say
    from cryomorph.workflows import train as run_training

    settings = read_yaml(config) if config else {}
    given: dict[str, Any] = {
        "particles.path": particles,
        "particles.datadir": datadir,
        "particles.strip_prefix": strip_prefix,
        "particles.passthrough": passthrough,
        "particles.box": box,
        "particles.first": first,
        "particles.indices": indices,
        "particles.pixel_size": pixel_size,
        "particles.invert": invert,
        "template.path": template,
        "template.chains": chains.split(",") if chains else None,
        "template.frame": template_frame,
        "beads": beads,
        "decoder.latent_dim": latent_dim,
        "latent_prior": latent_prior,
        "search.shift_range": shift_range,
        "search.models": [str(path) for path in library] if library else None,
        "calibration.shells": calibration,
        "priors.strength": prior_strength,
        "priors.terms.log_distance.weight": r2,
        "training.epochs": epochs,
        "training.batch_size": batch,
        "training.learning_rate": learning_rate,
        "training.latent_learning_rate": latent_learning_rate,
        "hardware.accelerator": accelerator,
        "hardware.devices": devices,
        "hardware.precision": precision,
        "seed": seed,
    }
    for seam, kind in (("decoder", decoder), ("latents", latents), ("poses", poses), ("likelihood", likelihood)):
        if kind is not None:
            _choose(settings, seam, kind)
    for name, value in given.items():
        if value is not None:
            _put(settings, name, value)
    for name, option in (("particles", "PARTICLES"), ("template", "--template")):
        if not isinstance(settings.get(name), Mapping):
            raise InputError(f"{option} is missing: give it as an argument, or as {name}.path in --config")
    if out is None:
        raise InputError("--out is missing: the folder to write the run into")
    source = f"{config} and command line" if config else "command line"
    resolved = parse_config(settings, source).resolved()
    if (library or shift_range is not None) and resolved.poses.model_dump()["kind"] != "search":
        raise InputError("--shift-range and --library are for --poses search")
    run = run_training(resolved, out, resume=resume, progress=ProgressBar())
    say(f"run complete: {run.path}")


@app.command()
def evaluate(
    run: Run,
    truth: Annotated[
        Path,
        typer.Option(
            help="truth.npz with coordinates, conformation and, if known, rotation, shift.", show_default=False
        ),
    ],
) -> None:
    """Compare a run with known truth: Cα RMSD in Å beside baselines, and errors of poses in degrees and Å."""
    from cryomorph.console import ProgressBar, show_evaluation
    from cryomorph.results import evaluate as run_evaluation

    show_evaluation(run_evaluation(run, truth, progress=ProgressBar()), run)


@app.command()
def export(
    run: Run,
    conformations: Annotated[Path | None, _option("Conformations as models of one .cif, .pdb or .dcd file.")] = None,
    particles: Annotated[
        Path | None,
        _option("The particles as .star or .cs, every original column kept, with the poses that the run found."),
    ] = None,
    indices: IndicesFile = None,
    every: Annotated[int, typer.Option(help="Only every N-th particle.", min=1)] = 1,
    original_poses: Annotated[
        bool, typer.Option("--original-poses", help="Leave the poses of the original file in --particles.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write conformations, or the particles of a selection, in formats that other programs open."""
    from cryomorph.config import read_indices
    from cryomorph.console import ProgressBar, say
    from cryomorph.results import export_conformations, export_particles

    if conformations is None and particles is None:
        raise InputError("nothing to export: give --conformations OUT.cif or --particles OUT.star")
    rows = None if indices is None else read_indices(indices)
    if conformations is not None:
        count = export_conformations(
            run, conformations, indices=rows, every=every, overwrite=overwrite, progress=ProgressBar()
        )
        say(f"{conformations}: {count:,} conformations")
    if particles is not None:
        count = export_particles(
            run, particles, indices=rows, every=every, original_poses=original_poses, overwrite=overwrite
        )
        say(f"{particles}: {count:,} particles")


@app.command()
def simulate(
    conformations: Annotated[
        Path, typer.Argument(help="Trajectory .dcd/.xtc, multi-model .pdb/.cif, or a folder.", show_default=False)
    ],
    out: Annotated[Path, _option("Folder for particles.mrcs, particles.star and truth.npz.")],
    topology: Annotated[Path | None, _option("PDB, mmCIF or PSF file that names the atoms of a trajectory.")] = None,
    template: Annotated[Path | None, _option("Model to dock on the mean conformation (template.cif).")] = None,
    poses: Annotated[
        Path | None, _option("Take rotations from this .star, .cs or truth.npz [default: uniform].")
    ] = None,
    images: Annotated[int | None, _option("Images of each conformation [default: 10].")] = None,
    box: Annotated[int | None, _option("Image size in pixels [default: 128].")] = None,
    pixel_size: Annotated[float | None, _option("Å per pixel [default: 2].")] = None,
    voltage: Annotated[float | None, _option("Acceleration voltage in kV [default: 300].")] = None,
    cs: Annotated[float | None, _option("Spherical aberration in mm [default: 2.7].")] = None,
    amplitude_contrast: Annotated[float | None, _option("Between 0 and 1 [default: 0.07].")] = None,
    defocus: Annotated[
        str | None, _option("Å, positive is underfocus: LOW,HIGH or one value [default: 10000,20000].")
    ] = None,
    astigmatism: Annotated[str | None, _option("U - V in Å: LOW,HIGH or one value [default: 0].")] = None,
    phase_shift: Annotated[float | None, _option("Of a phase plate, degrees [default: 0].")] = None,
    b_factor: Annotated[float | None, _option("Of the envelope, Å² [default: 0].")] = None,
    shift: Annotated[float | None, _option("Standard deviation of shifts, Å [default: 0].")] = None,
    dose: Annotated[float | None, _option("Electrons per Å² [default: 100].")] = None,
    snr_db: Annotated[float | None, _option("Power signal-to-noise ratio in dB; replaces the dose.")] = None,
    solvent: Annotated[bool | None, _option("Subtract the ice that atoms displace [default: yes].")] = None,
    align: Annotated[bool | None, _option("Superpose conformations on the first [default: no].")] = None,
    dtype: Annotated[str | None, _option("float32 or float16 [default: float32].")] = None,
    seed: Annotated[int | None, _option("Seed of all random numbers [default: 0].", min=0)] = None,
) -> None:
    """Simulate images with known truth from all-atom conformations."""
    from cryomorph.config import parse_settings
    from cryomorph.console import ProgressBar, say
    from cryomorph.simulate import SimulationSettings
    from cryomorph.workflows import simulate_images

    given = {
        "images_per_conformation": images,
        "box": box,
        "pixel_size": pixel_size,
        "voltage": voltage,
        "spherical_aberration": cs,
        "amplitude_contrast": amplitude_contrast,
        "defocus": _numbers(defocus),
        "astigmatism": _numbers(astigmatism),
        "phase_shift": phase_shift,
        "b_factor": b_factor,
        "shift": shift,
        "dose": dose,
        "snr_db": snr_db,
        "solvent": solvent,
        "align": align,
        "dtype": dtype,
        "seed": seed,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = parse_settings(SimulationSettings, chosen, "command line")
    star = simulate_images(
        conformations, out, settings, topology=topology, template=template, poses=poses, progress=ProgressBar()
    )
    say(f"particles: {star}\ntruth: {out / 'truth.npz'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demonstration writes.")] = Path("demo"),
) -> None:
    """Simulate, train, evaluate and export adenylate kinase: a few minutes on two cores."""
    from cryomorph.console import ProgressBar, say, show_evaluation
    from cryomorph.demo import demo as run_demo

    result = run_demo(out, progress=ProgressBar())
    show_evaluation(result.evaluation, result.run)
    say(f"look at   {result.movie}  (102 models: one conformation each, closed to open)")
    say(f"ChimeraX  {result.script}")
    say(f"run       {result.run}")


def _numbers(text: str | None) -> list[float] | None:
    """Read `LOW,HIGH`, or one value that stands for both."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise InputError(f"{text!r}: expected LOW,HIGH or one number")
    return [values[0], values[-1]]


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a nested setting such as `training.epochs`; a component that was given by its kind becomes a mapping."""
    *path, last = name.split(".")
    for key in path:
        inner = settings.get(key) or {}
        if not isinstance(inner, Mapping | str):
            raise InputError(f"--config: {key}: expected a mapping, found {inner!r}")
        settings[key] = {"kind": inner} if isinstance(inner, str) else dict(inner)
        settings = settings[key]
    settings[last] = str(value) if isinstance(value, Path) else value


def _choose(settings: dict[str, Any], seam: str, kind: str) -> None:
    """Choose the kind of a component; settings of another kind, from the YAML file, no longer apply."""
    before = settings.get(seam)
    if not isinstance(before, Mapping) or before.get("kind") != kind:
        settings[seam] = {"kind": kind}


def main() -> None:
    """Run the command; what a user can mend ends with one line and exit code 2."""
    from cryomorph.console import errors, show_messages

    # Processes that Fabric starts for further devices run this command too; the first one speaks for all.
    process = int(os.environ.get("LOCAL_RANK", "0"))
    show_messages(quiet=process > 0)
    try:
        app()
    except SystemExit as stop:
        if stop.code == 130:  # Typer's answer to Ctrl-C
            errors.print("stopped; run the same command again to continue", style="yellow")
        raise
    except Exception as error:
        message = _plain(error)
        if message is None:
            raise
        who = f"process {process}: " if process else ""
        errors.print(f"error: {who}{message}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _plain(error: Exception) -> str | None:
    """Say in a line what a user can do about an error; None for an error in the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        return f"{error.filename or 'output'}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full; lower --batch or --box"
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER):
        return "another process of this run stopped; see its own message"
    return None
