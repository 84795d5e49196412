"""`cryomorph train`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import cryomorph.conformations as conformation_models
import cryomorph.latents as latent_sources
import cryomorph.likelihood as likelihoods
import cryomorph.poses as pose_sources
from cryomorph.cli.options import choose, kinds, option, put
from cryomorph.errors import InputError

Particles = Annotated[
    Path | None,
    typer.Argument(
        help="RELION .star or cryoSPARC .cs file, with CTF, and poses unless --poses finds them.", show_default=False
    ),
]


def train(
    particles: Particles = None,
    template: Annotated[Path | None, option("Atomic model, PDB or mmCIF, docked into the consensus map.")] = None,
    out: Annotated[Path | None, option("Run folder to write; a stopped run there is continued.")] = None,
    config: Annotated[Path | None, option("YAML file with any of these settings; options here override it.")] = None,
    datadir: Annotated[Path | None, option("Folder that image paths are relative to.")] = None,
    strip_prefix: Annotated[str | None, option("Leading part of image paths to drop.")] = None,
    passthrough: Annotated[Path | None, option("cryoSPARC passthrough .cs file with the remaining fields.")] = None,
    box: Annotated[int | None, option("Fourier-crop images to this many pixels.", min=16)] = None,
    first: Annotated[int | None, option("Use the first N particles only.", min=1)] = None,
    indices: Annotated[Path | None, option("Use these rows only (from 0): .npy or text file.")] = None,
    pixel_size: Annotated[float | None, option("Pixel size in Å, overriding the file's.")] = None,
    invert: Annotated[bool | None, option("Flip the contrast: for images with dark protein.")] = None,
    chains: Annotated[str | None, option("Chains of the template to use, e.g. A,B [default: all].")] = None,
    template_frame: Annotated[
        str | None, option("Where the map's origin is: auto, centre or corner of the box [default: auto].")
    ] = None,
    beads: Annotated[str | None, option("Scatterers: ca, residue, atom, or auto: chosen [default: auto].")] = None,
    surroundings: Annotated[
        bool | None,
        option("Look for density about the molecule that does not move with it, such as a detergent belt."),
    ] = None,
    occupancy: Annotated[
        bool | None,
        option("Look for how much each residue scatters."),
    ] = None,
    b_factors: Annotated[
        bool | None,
        option("Look for how blurred each residue is; what these three find is kept if free coefficients gain."),
    ] = None,
    decoder: Annotated[str | None, option(f"Conformation model: {kinds(conformation_models)} [default: gnn].")] = None,
    latent_dim: Annotated[
        int | None, option("Number of latent coordinates of gnn and mlp [default: 8].", min=1)
    ] = None,
    modes: Annotated[
        int | None,
        option("Normal modes of the molecule (nma), or of each of its chains [default: nma 100, chains 50].", min=0),
    ] = None,
    rigid: Annotated[
        str | None, option("How the decoder chains moves each as a body: none, rotation or full [default: full].")
    ] = None,
    groups: Annotated[
        str | None, option("Domains that the decoder chains moves in place of chains, such as A:1-120,A:121-214,B.")
    ] = None,
    latents: Annotated[
        str | None, option(f"Where latents come from: {kinds(latent_sources)} [default: variational].")
    ] = None,
    start_from: Annotated[
        Path | None, option("Finished run on the same particles: its model and latents are the start.")
    ] = None,
    latent_prior: Annotated[
        str | None, option("Strength of the latents' normal prior, or auto: chosen [default: auto].")
    ] = None,
    poses: Annotated[str | None, option(f"Where poses come from: {kinds(pose_sources)} [default: known].")] = None,
    shift_range: Annotated[
        float | None, option("Search particles up to this far, in Å, from where the file says [default: 0].", min=0)
    ] = None,
    library: Annotated[
        list[Path] | None, option("Another model of the same residues to compare images with; can be repeated.")
    ] = None,
    likelihood: Annotated[
        str | None, option(f"How images are compared: {kinds(likelihoods)} [default: matched_filter].")
    ] = None,
    calibration: Annotated[
        str | None,
        option("What is estimated in each Fourier shell: none, noise, signal or both [default: both]."),
    ] = None,
    prior_strength: Annotated[
        str | None,
        option("Strength of the geometric priors, nats per unit of paper A's sum; auto: chosen [default: auto]."),
    ] = None,
    auto: Annotated[
        bool | None,
        typer.Option(
            "--auto/--no-auto",
            help="Choose what is not given by Fourier coefficients kept out of the fit, or take fixed values.",
            show_default=False,
        ),
    ] = None,
    r2: Annotated[float | None, option("Weight of the log-distance prior R2; 0 leaves it out [default: 0.01].")] = None,
    epochs: Annotated[int | None, option("Passes over all images [default: 30].", min=1)] = None,
    batch: Annotated[int | None, option("Images a step, in each process [default: 32].", min=1)] = None,
    learning_rate: Annotated[float | None, option("Of networks [default: 0.003].")] = None,
    latent_learning_rate: Annotated[float | None, option("Of latents kept for each particle [default: 0.2].")] = None,
    accelerator: Annotated[str | None, option("auto, cpu or cuda [default: auto].")] = None,
    devices: Annotated[int | None, option("GPUs, or processes on a CPU [default: 1].", min=1)] = None,
    precision: Annotated[str | None, option("auto, 32-true or bf16-mixed [default: auto].")] = None,
    seed: Annotated[int | None, option("Seed of all random numbers [default: 0].", min=0)] = None,
    halves: Annotated[
        bool,
        typer.Option("--halves", help="Train a run on each half of the particles and tell which motion both find."),
    ] = False,
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
        "scattering.surroundings": surroundings,
        "scattering.occupancy": occupancy,
        "scattering.b_factors": b_factors,
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
        "start_from": start_from,
        "seed": seed,
    }
    for seam, kind in (("decoder", decoder), ("latents", latents), ("poses", poses), ("likelihood", likelihood)):
        if kind is not None:
            choose(settings, seam, kind)
    of_decoder = {"latent_dim": latent_dim, "modes": modes, "rigid": rigid, "groups": groups}
    _check_decoder_has(settings, [name for name, value in of_decoder.items() if value is not None])
    given |= {f"decoder.{name}": value for name, value in of_decoder.items()}
    for name, value in given.items():
        if value is not None:
            put(settings, name, value)
    if auto is not None:
        _choose_or_fix(settings, auto=auto)
    for name, argument in (("particles", "PARTICLES"), ("template", "--template")):
        if not isinstance(settings.get(name), Mapping):
            raise InputError(f"{argument} is missing: give it as an argument, or as {name}.path in --config")
    if out is None:
        raise InputError("--out is missing: the folder to write the run into")
    source = f"{config} and command line" if config else "command line"
    resolved = parse_config(settings, source).resolved()
    if (library or shift_range is not None) and resolved.poses.model_dump()["kind"] != "search":
        raise InputError("--shift-range and --library are for --poses search")
    if halves:
        from cryomorph.halves import train_halves
        from cryomorph.verdict import verdict

        found = train_halves(resolved, out, resume=resume, progress=ProgressBar())
        say(f"halves complete: {out / 'half1'}, {out / 'half2'}\n{verdict(found)}")
        return
    run = run_training(resolved, out, resume=resume, progress=ProgressBar())
    say(f"run complete: {run.path}")


def _choose_or_fix(settings: dict[str, Any], *, auto: bool) -> None:
    """Let what is not given be chosen, or give it the values that training would begin with."""
    from cryomorph.bead_sets import START_BEADS
    from cryomorph.trials import LATENT_PRIOR, START

    priors = settings.get("priors")
    if not isinstance(priors, Mapping) or "strength" not in priors:
        put(settings, "priors.strength", "auto" if auto else START)
    for name, value in (("latent_prior", LATENT_PRIOR), ("beads", START_BEADS)):
        if name not in settings:
            put(settings, name, "auto" if auto else value)


def _check_decoder_has(settings: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse options that the chosen decoder knows nothing of."""
    from cryomorph.components import discover
    from cryomorph.config import DEFAULT_KINDS, SEAMS

    chosen = settings.get("decoder", {})
    kind = chosen.get("kind", DEFAULT_KINDS["decoder"]) if isinstance(chosen, Mapping) else chosen
    fields = {kind: part.Settings.model_fields for kind, part in discover(*SEAMS["decoder"]).items()}
    for name in names if isinstance(kind, str) and kind in fields else ():  # what else there is, is refused later
        if name not in fields[kind]:
            having = [kind for kind in fields if name in fields[kind]]
            raise InputError(f"--{name.replace('_', '-')} is for --decoder {' or '.join(having)}, not {kind}")
