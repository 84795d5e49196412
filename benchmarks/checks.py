"""What `cryomorph check` catches: data broken on purpose in one way each, and healthy ones, against the verdicts.

Example
-------
python benchmarks/checks.py --data FOLDER --template FOLDER/template.cif --json rows.json

FOLDER holds particles.star with one table of optics groups and true poses, and the images it names in one stack.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import mrcfile
import numpy as np
import torch
from gemmi import cif
from scipy.spatial.transform import Rotation

from cryomorph.checking import check
from cryomorph.checks import sample
from cryomorph.config import ParticlesConfig, TemplateConfig
from cryomorph.errors import InputError
from cryomorph.geometry import matrix_to_relion, relion_to_matrix
from cryomorph.optics import CTFParameters, ctf
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.write import write_template

ANGLES = ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi")
ORIGINS = ("_rlnOriginXAngst", "_rlnOriginYAngst")


@dataclass
class Data:
    """Particles in memory: columns of both tables, images, template."""

    optics: dict[str, list[str]]
    columns: dict[str, list[str]]
    images: np.ndarray
    template: Template
    changed: bool = False

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as numbers."""
        return np.array(self.columns[name], dtype=float)

    def number(self, row: int, name: str) -> float:
        """Return a value as a number."""
        return float(self.columns[name][row])

    @property
    def pixel_size(self) -> float:
        """Return Å a pixel."""
        return float(self.optics["_rlnImagePixelSize"][0])

    @property
    def rotation(self) -> np.ndarray:
        """Return rotations, map frame to image frame."""
        return relion_to_matrix(*(self.numbers(name) for name in ANGLES))

    def but(self, **columns: np.ndarray) -> "Data":
        """Return them with other columns."""
        changed = {f"_rln{name}": [f"{value:.6f}" for value in values] for name, values in columns.items()}
        return replace(self, columns=self.columns | changed)

    def turned(self, rotation: np.ndarray) -> "Data":
        """Return them with other rotations."""
        return self.but(**dict(zip(("AngleRot", "AngleTilt", "AnglePsi"), matrix_to_relion(rotation), strict=True)))

    def rows(self, rows: np.ndarray) -> "Data":
        """Return some of them."""
        return replace(self, columns={name: [values[row] for row in rows] for name, values in self.columns.items()})

    def showing(self, images: np.ndarray) -> "Data":
        """Return them with other images."""
        return replace(self, images=images.astype(np.float32), changed=True)

    def poses_of(self, rows: np.ndarray) -> "Data":
        """Give each image everything but its name from another row."""
        other = self.rows(rows)
        return replace(self, columns=other.columns | {"_rlnImageName": self.columns["_rlnImageName"]})

    def stating(self, **optics: float) -> "Data":
        """Return them with other optics."""
        changed = {
            f"_rln{name}": [f"{value:.6f}"] * len(self.optics["_rlnOpticsGroup"]) for name, value in optics.items()
        }
        return replace(self, optics=self.optics | changed)


def read(star: Path, template: Path) -> Data:
    document = cif.read_file(str(star))
    tables = []
    for name in ("optics", "particles"):
        loop = next(item.loop for item in document.find_block(name) if item.loop is not None)
        tables.append(
            {tag: [loop[row, column] for row in range(loop.length())] for column, tag in enumerate(loop.tags)}
        )
    name = tables[1]["_rlnImageName"][0].split("@")[1]
    with mrcfile.mmap(star.parent / name, permissive=True) as file:
        return Data(tables[0], tables[1], file.data, read_template(template))


def write(data: Data, original: Path, folder: Path) -> tuple[Path, Path]:
    stack = original
    if data.changed:
        stack = folder / "broken.mrcs"
        with mrcfile.new(stack, data.images, overwrite=True) as file:
            file.set_image_stack()
    names = [f"{name.split('@')[0]}@{stack.absolute()}" for name in data.columns["_rlnImageName"]]
    document = cif.Document()
    for name, table in (("optics", data.optics), ("particles", data.columns | {"_rlnImageName": names})):
        loop = document.add_new_block(name).init_loop("", list(table))
        loop.set_all_values(list(table.values()))
    document.write_file(str(folder / "particles.star"))
    write_template(folder / "template.cif", data.template)
    return folder / "particles.star", folder / "template.cif"


def mirrored(data: Data, signs: tuple[int, int, int]) -> Data:
    seen = data.rotation[:, :2] * np.array(signs)
    return data.turned(np.concatenate([seen, np.cross(seen[:, 0], seen[:, 1])[:, None]], axis=1))


def shifted(data: Data) -> Data:
    """Move every image by whole pixels, and say so in its origins."""
    moves = np.random.default_rng(1).integers(-4, 5, (len(data.images), 2))
    images = np.array(
        [np.roll(image, tuple(move[::-1]), (0, 1)) for image, move in zip(data.images, moves, strict=True)]
    )
    origin = -moves * data.pixel_size
    return data.showing(images).but(OriginXAngst=origin[:, 0], OriginYAngst=origin[:, 1])


def origins(data: Data, change: Callable[[np.ndarray], np.ndarray]) -> Data:
    moved = shifted(data)
    x, y = change(np.stack([moved.numbers(name) for name in ORIGINS]))
    return moved.but(OriginXAngst=x, OriginYAngst=y)


def filtered(data: Data, change: Callable[[np.ndarray], np.ndarray]) -> Data:
    """Multiply the Fourier transform of every image by a function of its own CTF."""
    box = data.images.shape[-1]
    kx, ky = np.fft.rfftfreq(box, data.pixel_size)[None], np.fft.fftfreq(box, data.pixel_size)[:, None]
    x, y = torch.from_numpy(kx)[None], torch.from_numpy(ky)[None]
    out = np.empty(data.images.shape, np.float32)
    group = float(data.optics["_rlnVoltage"][0]), float(data.optics["_rlnSphericalAberration"][0])
    for row, image in enumerate(data.images):
        values = [data.number(row, name) for name in ("_rlnDefocusU", "_rlnDefocusV")]
        angle = np.deg2rad(data.number(row, "_rlnDefocusAngle"))
        numbers = [*values, angle, *group, float(data.optics["_rlnAmplitudeContrast"][0]), 0.0, 0.0]
        transfer = ctf(x, y, CTFParameters(*(torch.tensor([n], dtype=torch.float64) for n in numbers)))[0].numpy()
        out[row] = np.fft.irfft2(np.fft.rfft2(image.astype(float)) * change(transfer), s=image.shape)
    return data.showing(out)


def with_some(data: Data, change: Callable[[np.ndarray], None]) -> Data:
    images = data.images.astype(np.float32)
    change(images)
    return data.showing(images)


def spoiled(value: float) -> Callable[[np.ndarray], None]:
    def change(images: np.ndarray) -> None:
        images[::40] = value

    return change


def copied(images: np.ndarray) -> None:
    images[1::20] = images[::20][: len(images[1::20])]


def moved(data: Data, x: float, y: float, z: float) -> Data:
    return replace(data, template=data.template.moved(np.array([x, y, z])))


def rotated(data: Data, degrees: float) -> Data:
    turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    return replace(data, template=data.template.transformed(turn, np.zeros(3)))


def noisier(data: Data, factor: float) -> Data:
    images = data.images.astype(np.float32)
    noise = np.random.default_rng(2).standard_normal(images.shape).astype(np.float32)
    return data.showing(images + np.sqrt(factor**2 - 1) * images.std() * noise)


def times(data: Data, name: str, factor: float) -> Data:
    return data.but(
        **{f"{name}U": factor * data.numbers(f"_rln{name}U"), f"{name}V": factor * data.numbers(f"_rln{name}V")}
    )


def order(data: Data) -> np.ndarray:
    return np.arange(len(data.columns["_rlnImageName"]))


HEALTHY: dict[str, Callable[[Data], Data]] = {
    "as it is": lambda d: d,
    "with shifts": shifted,
    "the first 200": lambda d: d.rows(order(d)[:200]),
    "rows shuffled with their images": lambda d: d.rows(np.random.default_rng(3).permutation(order(d))),
    "noise doubled": lambda d: noisier(d, 2),
    "template from the first voxel": lambda d: moved(d, *[d.images.shape[-1] // 2 * d.pixel_size] * 3),
    "template moved by 2 Å": lambda d: moved(d, 2, 0, 0),
    "pixel size 1 % off": lambda d: d.stating(ImagePixelSize=1.01 * d.pixel_size),
}

BROKEN: dict[str, tuple[str, Callable[[Data], Data]]] = {
    "contrast inverted": ("contrast", lambda d: d.showing(-d.images.astype(np.float32))),
    "contrast inverted, no poses": (
        "contrast",
        lambda d: replace(
            d.showing(-d.images.astype(np.float32)), columns={k: v for k, v in d.columns.items() if k not in ANGLES}
        ),
    ),
    "poses of the mirror image (z)": ("hand", lambda d: mirrored(d, (1, 1, -1))),
    "poses of the mirror image (x)": ("hand", lambda d: mirrored(d, (-1, 1, 1))),
    "rotations transposed": ("rotations", lambda d: d.turned(np.swapaxes(d.rotation, 1, 2))),
    "images upside down": ("rotations", lambda d: d.showing(np.roll(d.images[:, ::-1], 1, 1))),
    "pixel size 10 % too large": ("pixel size", lambda d: d.stating(ImagePixelSize=1.1 * d.pixel_size)),
    "pixel size 10 % too small": ("pixel size", lambda d: d.stating(ImagePixelSize=d.pixel_size / 1.1)),
    "pixel size 30 % too large": ("pixel size", lambda d: d.stating(ImagePixelSize=1.3 * d.pixel_size)),
    "pixel size halved": ("pixel size", lambda d: d.stating(ImagePixelSize=d.pixel_size / 2)),
    "template moved by 10 Å": ("docking", lambda d: moved(d, 6, -6, 5)),
    "template moved by 20 Å": ("docking", lambda d: moved(d, 0, 20, 0)),
    "template turned by 60°": ("docking", lambda d: rotated(d, 60)),
    "template far from the map": ("docking", lambda d: moved(d, 900, 0, 0)),
    "sign of the defocus": ("CTF", lambda d: times(d, "Defocus", -1)),
    "defocus in nm": ("CTF", lambda d: times(d, "Defocus", 0.1)),
    "defocus in µm": ("refused", lambda d: times(d, "Defocus", 1e-4)),
    "voltage in V": ("refused", lambda d: d.stating(Voltage=300_000)),
    "amplitude contrast in %": ("refused", lambda d: d.stating(AmplitudeContrast=7)),
    "amplitude contrast 0.7": ("CTF columns", lambda d: d.stating(AmplitudeContrast=0.7)),
    "images phase-flipped": ("CTF", lambda d: filtered(d, np.sign)),
    "images multiplied by the CTF": ("CTF", lambda d: filtered(d, lambda h: h)),
    "poses one row on": ("row order", lambda d: d.poses_of(np.roll(order(d), 1))),
    "poses one row back": ("row order", lambda d: d.poses_of(np.roll(order(d), -1))),
    "poses in reverse order": ("row order", lambda d: d.poses_of(order(d)[::-1])),
    "poses shuffled": ("docking", lambda d: d.poses_of(np.random.default_rng(4).permutation(order(d)))),
    "constant images": ("dead images", lambda d: with_some(d, spoiled(0.0))),
    "images with NaN": ("dead images", lambda d: with_some(d, spoiled(np.nan))),
    "copies of images": ("duplicates", lambda d: with_some(d, copied)),
    "rows twice": ("duplicates", lambda d: d.rows(np.concatenate([order(d), order(d)[::3]]))),
    "one orientation for all": ("orientations", lambda d: d.turned(np.broadcast_to(np.eye(3), (len(order(d)), 3, 3)))),
    "views from the top alone": ("orientations", lambda d: d.rows(np.flatnonzero(np.abs(d.rotation[:, 2, 2]) > 0.9))),
    "shifts of the other sign": ("shifts", lambda d: origins(d, np.negative)),
    "x and y of shifts swapped": ("shifts", lambda d: origins(d, lambda o: o[::-1])),
    "shifts in pixels": ("shifts", lambda d: origins(d, lambda o: o / d.pixel_size)),
    "shifts forgotten": ("docking", lambda d: origins(d, np.zeros_like)),
}


def judged(data: Data, original: Path) -> dict[str, object]:
    """Verdicts of all tests, `refused` for input that is not read."""
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        star, template = write(data, original, Path(folder))
        try:
            report = check(ParticlesConfig(path=star), TemplateConfig(path=template))
        except InputError as error:
            return {"refused": str(error).replace(folder, ""), "seconds": time.perf_counter() - started}
    verdicts = {finding.name: finding.verdict for finding in report.findings}
    mends = {finding.name: finding.mend for finding in report.findings if finding.mend}
    found = {"verdict": report.verdict, "verdicts": verdicts, "mends": mends, "seconds": time.perf_counter() - started}
    return found | {"evidence": {finding.name: dict(finding.evidence) for finding in report.findings}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with particles.star and its stack")
    parser.add_argument("--template", type=Path, help="docked model [default: template.cif of the folder]")
    parser.add_argument("--images", type=int, help="compare at most so many images [default: as the command does]")
    parser.add_argument("--only", help="names that hold this text")
    parser.add_argument("--json", type=Path, help="write all verdicts and numbers to this file")
    arguments = parser.parse_args()
    if arguments.images:
        sample.IMAGES = sample.LEAST_IMAGES = arguments.images
    star = arguments.data / "particles.star"
    data = read(star, arguments.template or arguments.data / "template.cif")
    original = star.parent / data.columns["_rlnImageName"][0].split("@")[1]
    cases = {name: ("", change) for name, change in HEALTHY.items()} | BROKEN
    rows = []
    print("| input | expected | found | others | seconds |\n|---|---|---|---|---|")
    for name, (test, change) in cases.items():
        if arguments.only and arguments.only not in name:
            continue
        found = judged(change(data), original)
        rows.append({"input": name, "test": test} | found)
        flagged = {t: v for t, v in found.get("verdicts", {}).items() if v in ("wrong", "suspect")}
        of_test = "refused" if "refused" in found else flagged.pop(test, "not flagged" if test else "")
        others = ", ".join(f"{t} {v}" for t, v in flagged.items()) or "none"
        print(f"| {name} | {test or 'nothing'} | {of_test} | {others} | {found['seconds']:.0f} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
