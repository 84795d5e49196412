"""`cryomorph infer`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cryomorph.cli.options import Run, option


def infer(
    run: Run,
    particles: Annotated[
        Path,
        typer.Argument(
            help="RELION .star or cryoSPARC .cs file, with CTF and poses in the frame of the run.", show_default=False
        ),
    ],
    out: Annotated[Path, option("Run folder to write; a stopped inference there is continued.")],
    datadir: Annotated[Path | None, option("Folder that image paths are relative to.")] = None,
    strip_prefix: Annotated[str, option("Leading part of image paths to drop.")] = "",
    passthrough: Annotated[Path | None, option("cryoSPARC passthrough .cs file with the remaining fields.")] = None,
    box: Annotated[int | None, option("Fourier-crop images to this many pixels [default: as the run].", min=16)] = None,
    first: Annotated[int | None, option("Use the first N particles only.", min=1)] = None,
    indices: Annotated[Path | None, option("Use these rows only (from 0): .npy or text file.")] = None,
    pixel_size: Annotated[float | None, option("Pixel size in Å, overriding the file's [default: as the run].")] = None,
    invert: Annotated[
        bool | None, option("Flip the contrast: for images with dark protein [default: as the run].")
    ] = None,
    epochs: Annotated[
        int | None, option("Passes over all images, where latents are fitted [default: 5].", min=1)
    ] = None,
    batch: Annotated[int | None, option("Images at a time, in each process [default: as the run].", min=1)] = None,
    accelerator: Annotated[str | None, option("auto, cpu or cuda [default: as the run].")] = None,
    devices: Annotated[int | None, option("GPUs, or processes on a CPU [default: as the run].", min=1)] = None,
    precision: Annotated[str | None, option("auto, 32-true or bf16-mixed [default: as the run].")] = None,
) -> None:
    """Find the conformations of new particles with what a finished run learned, which stays as it is."""
    from cryomorph.config import ParticlesConfig, parse_settings
    from cryomorph.console import ProgressBar, say
    from cryomorph.hardware import HardwareSettings
    from cryomorph.inference import infer as run_inference
    from cryomorph.inference import settings_of

    before = settings_of(run)
    given: dict[str, Any] = {
        "path": particles,
        "datadir": datadir,
        "strip_prefix": strip_prefix,
        "passthrough": passthrough,
        "first": first,
        "indices": indices,
    }
    image_options = {"box": box, "pixel_size": pixel_size, "invert": invert}
    for name, value in image_options.items():
        given[name] = getattr(before.particles, name) if value is None else value
    hardware = {"accelerator": accelerator, "devices": devices, "precision": precision}
    chosen = before.hardware.model_dump() | {name: value for name, value in hardware.items() if value is not None}
    found = run_inference(
        run,
        parse_settings(ParticlesConfig, given, "command line"),
        out,
        epochs=epochs,
        batch_size=batch,
        hardware=parse_settings(HardwareSettings, chosen, "command line"),
        progress=ProgressBar(),
    )
    say(f"inference complete: {found.path}")
