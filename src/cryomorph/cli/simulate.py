"""`cryomorph simulate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cryomorph.cli.options import numbers, option
from cryomorph.errors import InputError


def simulate(
    conformations: Annotated[
        Path, typer.Argument(help="Model(s) .pdb/.cif, trajectory .dcd/.xtc, or a folder.", show_default=False)
    ],
    out: Annotated[Path, option("Folder for particles.mrcs, particles.star and truth.npz.")],
    topology: Annotated[Path | None, option("PDB, mmCIF or PSF file that names the atoms of a trajectory.")] = None,
    template: Annotated[Path | None, option("Model to dock on the mean conformation (template.cif).")] = None,
    poses: Annotated[
        Path | None, option("Take rotations from this .star, .cs or truth.npz [default: uniform].")
    ] = None,
    images: Annotated[int | None, option("Images of each conformation [default: 10].")] = None,
    modes: Annotated[
        int | None, option("Move every image's chains on their own, along this many normal modes of each.")
    ] = None,
    mixture: Annotated[
        str | None,
        option('Of the weights of modes, Å: "MEAN,MEAN;STD", equally probable means [default: 0,2.5;0.25].'),
    ] = None,
    chain_rotation: Annotated[
        float | None, option("Turn every image's chains on their own, by up to this many degrees about x, y and z.")
    ] = None,
    groups: Annotated[
        str | None, option("Rigid domains that move in place of chains, such as A:1-120,A:121-214,B.")
    ] = None,
    split: Annotated[
        str | None,
        option("Write row numbers to train.txt, validation.txt and test.txt: 5000,500,500 images, or 0.8,0.1,0.1."),
    ] = None,
    physics: Annotated[
        str | None, option("projection, or multislice: a wave through ice, slice by slice [default: projection].")
    ] = None,
    ice: Annotated[
        float | None, option("With multislice: thickness of the ice in Å; 0 is a vacuum [default: 150].")
    ] = None,
    slice_thickness: Annotated[float | None, option("With multislice: thickness of a slice in Å [default: 5].")] = None,
    focal_spread: Annotated[
        float | None, option("With multislice: standard deviation of the focus in Å [default: 50].")
    ] = None,
    illumination: Annotated[
        float | None, option("With multislice: semi-angle of the illumination in mrad [default: 0.02].")
    ] = None,
    ice_motion: Annotated[
        float | None,
        option("With multislice: mean square distance in Å² that water moves for each electron per Å² [default: 1.1]."),
    ] = None,
    damage: Annotated[
        float | None, option("With multislice: B-factor in Å² that each electron per Å² adds [default: 0].")
    ] = None,
    mtf: Annotated[
        Path | None, option("With multislice: star file of the detector's transfer function, as for RELION.")
    ] = None,
    box: Annotated[int | None, option("Image size in pixels [default: 128].")] = None,
    pixel_size: Annotated[float | None, option("Å per pixel [default: 2].")] = None,
    voltage: Annotated[float | None, option("Acceleration voltage in kV [default: 300].")] = None,
    cs: Annotated[float | None, option("Spherical aberration in mm [default: 2.7].")] = None,
    amplitude_contrast: Annotated[float | None, option("Between 0 and 1 [default: 0.07].")] = None,
    defocus: Annotated[
        str | None, option("Å, positive is underfocus: LOW,HIGH or one value [default: 10000,20000].")
    ] = None,
    astigmatism: Annotated[str | None, option("U - V in Å: LOW,HIGH or one value [default: 0].")] = None,
    phase_shift: Annotated[float | None, option("Of a phase plate, degrees [default: 0].")] = None,
    b_factor: Annotated[float | None, option("Of the envelope, Å² [default: 0].")] = None,
    shift: Annotated[float | None, option("Standard deviation of shifts, Å [default: 0].")] = None,
    dose: Annotated[float | None, option("Electrons per Å² [default: 100].")] = None,
    snr_db: Annotated[float | None, option("Power signal-to-noise ratio in dB; replaces the dose.")] = None,
    solvent: Annotated[bool | None, option("Subtract the ice that atoms displace [default: yes].")] = None,
    align: Annotated[bool | None, option("Superpose conformations on the first [default: no].")] = None,
    dtype: Annotated[str | None, option("float32 or float16 [default: float32].")] = None,
    contrast_spread: Annotated[
        float | None, option("Standard deviation of images' contrast, as a share of its mean [default: 0].")
    ] = None,
    group_contrast: Annotated[
        str | None, option("Contrast of each optics group, such as 1,0.5; images are dealt in turn [default: 1].")
    ] = None,
    background: Annotated[
        float | None,
        option("Smooth field added to each image: its deviation in units of a pixel's noise [default: 0]."),
    ] = None,
    background_length: Annotated[float | None, option("Å over which that field changes [default: 60].")] = None,
    belt: Annotated[
        float | None, option("Carbon atoms of a belt that does not move, for each atom of the molecule [default: 0].")
    ] = None,
    neighbours: Annotated[
        float | None, option("Share of images that also show a part of another molecule [default: 0].")
    ] = None,
    faint: Annotated[str | None, option("Residues that scatter less than they should, such as A:120-160.")] = None,
    occupancy: Annotated[float | None, option("Share of their scattering that those have [default: 0.3].")] = None,
    blurred: Annotated[str | None, option("Residues that are blurred, such as A:120-160.")] = None,
    blur: Annotated[float | None, option("B-factor of those beyond all others', Å² [default: 200].")] = None,
    seed: Annotated[int | None, option("Seed of all random numbers [default: 0].", min=0)] = None,
) -> None:
    """Simulate images with known truth from all-atom conformations."""
    from cryomorph.config import parse_settings
    from cryomorph.console import ProgressBar, say
    from cryomorph.simulate import SimulationSettings
    from cryomorph.workflows import simulate_images

    given: dict[str, Any] = {
        "images_per_conformation": images,
        "physics": physics,
        "split": split,
        "box": box,
        "pixel_size": pixel_size,
        "voltage": voltage,
        "spherical_aberration": cs,
        "amplitude_contrast": amplitude_contrast,
        "defocus": numbers(defocus),
        "astigmatism": numbers(astigmatism),
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
    motion = {"modes": modes, "mixture": mixture, "rotation": chain_rotation, "groups": groups}
    given["motion"] = {name: value for name, value in motion.items() if value is not None} or None
    nuisances = {
        "contrast": contrast_spread,
        "group_contrast": group_contrast,
        "background": background,
        "background_length": background_length,
        "belt": belt,
        "neighbours": neighbours,
        "faint": faint,
        "occupancy": occupancy,
        "blurred": blurred,
        "blur": blur,
    }
    given["nuisances"] = {name: value for name, value in nuisances.items() if value is not None} or None
    wave = {
        "ice": ice,
        "slice": slice_thickness,
        "focal_spread": focal_spread,
        "illumination": illumination,
        "ice_motion": ice_motion,
        "damage": damage,
        "mtf": mtf,
    }
    given["multislice"] = {name: value for name, value in wave.items() if value is not None} or None
    if given["multislice"] and physics != "multislice":
        raise InputError("ice, slices, coherence, damage and detector belong to --physics multislice; give that too")
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = parse_settings(SimulationSettings, chosen, "command line")
    star = simulate_images(
        conformations, out, settings, topology=topology, template=template, poses=poses, progress=ProgressBar()
    )
    say(f"particles: {star}\ntruth: {out / 'truth.npz'}")
