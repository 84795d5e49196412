"""Accuracy with unknown and with inexact poses, against a known truth; and what is found in images of nothing.

Example
-------
python benchmarks/unknown_poses.py --data DATA/adk --out results --json rows.json
python benchmarks/unknown_poses.py --data DATA/adk --out results --rows search --history --figure history.svg

`DATA/adk` holds `particles.star`, its stack, the truth (`particles_truth.npz`), whose conformations are numbered from
closed to open, and a model of either end. Every run is an ordinary run folder under `--out`, continued if it was
stopped. Rows:

* `known`: true poses. `known+5`, `known+10`: rotations turned about random axes by angles of 5° and 10° rms, and taken
  as they are; `refine+5`, `refine+10`: the same, refined.
* `search`, `search-closed`: a particle file without poses, with the open and with the closed model as the template.
* `restricted`: likewise, but only images of the closed quarter with the open template; `restricted-closed`: of the open
  quarter with the closed template.
* `halves`: two runs of `search` on 500 particles each, which are compared with each other. `noise`: likewise for white
  noise in place of the images. Of motions that are real, the first principal components agree; where conformations
  hardly move, their direction means nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import roma
import torch
from gemmi import cif

from cryomorph.evaluation import read_truth
from cryomorph.geometry import rmsd, superpose
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.stack import read_table
from cryomorph.results import FittedRun
from pose_history import follow, history_figure, print_history, shares

POSES = ("_rlnAngleRot", "_rlnAngleTilt", "_rlnAnglePsi", "_rlnOriginX", "_rlnOriginY")
POSES += ("_rlnOriginXAngst", "_rlnOriginYAngst", "_rlnAngleRotPrior", "_rlnAngleTiltPrior", "_rlnAnglePsiPrior")
HALF = 500
"""Particles in each of two halves that are compared."""
OTHER_SEED = 1000
"""By how much the seed of the second half differs."""


@dataclass(frozen=True)
class Row:
    """What a row of the table is about.

    Attributes
    ----------
    poses
        Kind of pose source.
    template
        `open` or `closed`.
    data
        `all`, `closed` or `open` (that quarter of the path), `halves` or `noise`.
    degrees
        Root mean square error of the rotations in the particle file; None without poses.
    """

    poses: str
    template: str = "open"
    data: str = "all"
    degrees: float | None = None


ROWS = {
    "known": Row("known", degrees=0),
    "known+5": Row("known", degrees=5),
    "refine+5": Row("refine", degrees=5),
    "known+10": Row("known", degrees=10),
    "refine+10": Row("refine", degrees=10),
    "search": Row("search"),
    "search-closed": Row("search", template="closed"),
    "restricted": Row("search", data="closed"),
    "restricted-closed": Row("search", template="closed", data="open"),
    "halves": Row("search", data="halves"),
    "noise": Row("search", data="noise"),
}


def with_noise(star: Path, out: Path, degrees: float) -> Path:
    """Write particles whose rotations are turned about random axes, by normal angles of so many degrees rms."""
    table, generator = read_table(star), np.random.default_rng(0)
    if table.rotation is None:
        raise SystemExit(f"{star}: has no poses")
    axis = generator.standard_normal((len(table), 3))
    angle = np.deg2rad(degrees) * generator.standard_normal((len(table), 1))
    turns = torch.from_numpy(angle * axis / np.linalg.norm(axis, axis=1, keepdims=True))
    turned = table.rotation @ roma.rotvec_to_rotmat(turns).numpy()
    rows = np.arange(len(table))
    table.origin.write(out, rows, FoundPoses(turned, table.shift, np.zeros(len(table))))
    return out


def without_poses(star: Path, out: Path, noise: Path | None = None) -> Path:
    """Write particles without angles and origins; all images from another stack, in order, if there is one."""
    document = cif.read(str(star))
    for block in document:
        for item in block:
            if item.loop is None or "_rlnImageName" not in item.loop.tags:
                continue
            for tag in [tag for tag in POSES if tag in item.loop.tags]:
                item.loop.remove_column(tag)
            if noise is not None:
                for number, row in enumerate(block.find(["_rlnImageName"]), start=1):
                    row[0] = f"{number:06d}@{noise.name}"
    document.write_file(str(out))
    return out


def noise_stack(path: Path, count: int, box: int, pixel_size: float) -> Path:
    """Write images of white noise."""
    images = np.random.default_rng(0).standard_normal((count, box, box)).astype(np.float32)
    with mrcfile.new(path, images, overwrite=True) as file:
        file.set_image_stack()
        file.voxel_size = pixel_size
    return path


def particles_of(row: Row, arguments: argparse.Namespace) -> list[str]:
    """Write the particle file of a row, if it is not there; returns the arguments that choose it."""
    source, out = arguments.data / "particles.star", arguments.out
    datadir = ["--datadir", str(arguments.data)]
    if row.degrees == 0:
        return [str(source)]
    if row.degrees is not None:
        star = out / f"particles-{row.degrees:g}deg.star"
        return [str(star if star.exists() else with_noise(source, star, row.degrees)), *datadir]
    if row.data == "noise":
        star, stack = out / "noise.star", out / "noise.mrcs"
        if not star.exists():
            table = read_table(source)
            noise_stack(stack, len(table), int(table.image_size[0]), float(table.pixel_size[0]))
            without_poses(source, star, stack)
        return [str(star)]
    star = out / "particles-no-poses.star"
    return [str(star if star.exists() else without_poses(source, star)), *datadir]


def chosen(row: Row, arguments: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Write which particles the runs of a row take; returns what each name ends in, and the arguments that choose."""
    conformation = read_truth(arguments.data / arguments.truth).conformation
    quarters = np.array_split(np.argsort(conformation, kind="stable"), 4)
    selected = {"closed": [("", quarters[0])], "open": [("", quarters[-1])]}
    shuffled = np.random.default_rng(0).permutation(len(conformation))
    halves = [(f"-half{number + 1}", shuffled[number * HALF : (number + 1) * HALF]) for number in range(2)]
    selected |= {"halves": halves, "noise": halves}
    runs = []
    for suffix, rows in selected.get(row.data, []):
        path = arguments.out / f"rows-{row.data}{suffix}.npy"
        if not path.exists():
            np.save(path, np.sort(rows))
        runs.append((suffix, ["--indices", str(path)]))
    return runs or [("", [])]


def train(name: str, command: list[str], row: Row, arguments: argparse.Namespace) -> float:
    """Train a run in a process of its own, its poses kept after each epoch if they are asked for; returns seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // arguments.workers))}
    started = time.monotonic()
    folder = arguments.out / name
    with (arguments.out / f"{name}.log").open("ab") as log:
        command = [sys.executable, "-m", "cryomorph", "train", *command, "--out", str(folder)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        if arguments.history and row.poses == "search" and row.data == "all":
            follow(process, folder, arguments.out / f"{name}-history.npz")
        if process.wait():
            sys.exit(f"{name} failed: see {log.name}")
    return time.monotonic() - started


def run_one(arguments: argparse.Namespace, label: str, seed: int) -> dict[str, object]:
    """Train and evaluate what belongs to a row of the table."""
    row, names, seconds = ROWS[label], [], 0.0
    template = arguments.data / getattr(arguments, row.template)
    options = ["--template", str(template), "--poses", row.poses, *arguments.options]
    for number, (suffix, selection) in enumerate(chosen(row, arguments)):
        names.append(f"{label}-seed{seed}{suffix}")
        # Networks that start alike would agree before they have seen an image.
        options_now = [*options, "--seed", str(seed + number * OTHER_SEED)]
        seconds += train(names[-1], [*particles_of(row, arguments), *selection, *options_now], row, arguments)
    result: dict[str, object] = {
        "row": label,
        "poses": row.poses,
        "template": row.template,
        "data": row.data,
        "degrees": row.degrees,
        "seed": seed,
        "seconds": round(seconds, 1),
    }
    folders = [arguments.out / name for name in names]
    result |= evaluated(folders[0], arguments) if len(folders) == 1 else compared(*folders)
    print(f"{', '.join(names):32s} {seconds:.0f} s", flush=True)
    return result


def evaluated(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Compare a run with the truth."""
    command = [sys.executable, "-m", "cryomorph", "evaluate", str(folder)]
    command += ["--truth", str(arguments.data / arguments.truth)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dict(json.loads((folder / "evaluation.json").read_text()))


def compared(first: Path, second: Path) -> dict[str, object]:
    """Compare two runs: how far their conformations spread, and whether they move alike.

    Returns
    -------
    dict
        `spread`: mean RMSD in Å to the mean conformation, of each; `motion`: rms displacement in Å along the first
        principal component, of each; `agreement`: |cosine| between the two components, displacements of all residues
        after superposition on the template.
    """
    spread, motion, directions = [], [], []
    for folder in (first, second):
        fitted = FittedRun(folder)
        x = np.concatenate([part for _, part in fitted.decode(np.arange(len(fitted.source_index)))]).astype(float)
        rotation, translation = superpose(x, fitted.template.coordinates)
        x = x @ np.swapaxes(rotation, 1, 2) + translation[:, None]
        mean = x.mean(0)
        spread.append(float(rmsd(x, mean).mean()))
        _, size, along = np.linalg.svd((x - mean).reshape(len(x), -1), full_matrices=False)
        motion.append(float(size[0] / np.sqrt(len(x) * len(mean))))
        directions.append(along[0])
    agreement = abs(float(directions[0] @ directions[1]))
    return {"images": len(x), "spread": spread, "motion": motion, "agreement": agreement}


def print_table(rows: list[dict[str, object]]) -> None:
    print(
        f"\n{'row':20s}{'seed':>5s}{'s':>7s}{'mean RMSD':>11s}{'95 %':>7s}{'rotation °':>12s}{'> 20° off':>11s}", end=""
    )
    print(f"{'template':>10s}{'constant':>10s}")
    for row in (row for row in rows if "rmsd_mean" in row):
        print(
            f"{row['row']:20s}{row['seed']:5d}{row['seconds']:7.0f}{row['rmsd_mean']:11.3f}{row['rmsd_p95']:7.2f}"
            f"{row['rotation_error_median_deg']:12.2f}{row['rotation_error_over_20deg']:11.3f}"
            f"{row['rmsd_template']:10.3f}{row['rmsd_constant']:10.3f}"
        )
    halves = [row for row in rows if "agreement" in row]
    if halves:
        print(f"\n{'two halves':20s}{'seed':>5s}{'s':>7s}{'spread (Å)':>14s}{'along PC 1 (Å)':>17s}{'|cos|':>8s}")
    for row in halves:
        spread, motion = (", ".join(f"{value:.2g}" for value in row[name]) for name in ("spread", "motion"))
        print(f"{row['row']:20s}{row['seed']:5d}{row['seconds']:7.0f}{spread:>14s}{motion:>17s}{row['agreement']:8.2f}")


def show_history(arguments: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    """Print the histories of the runs that have one, draw them, and add them to the rows."""
    runs = {}
    for row in rows:
        name = f"{row['row']}-seed{row['seed']}"
        history = arguments.out / f"{name}-history.npz"
        if history.exists():
            runs[name] = shares(history, arguments.out / name, arguments.data / arguments.truth)
            print_history(name, runs[name])
            row["history"] = runs[name]
    if arguments.figure and runs:
        history_figure(runs, arguments.figure)


def main() -> None:
    """Run all rows and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with particles.star, truth and models")
    parser.add_argument("--open", default="open_4ake.pdb", help="model of the open end")
    parser.add_argument("--closed", default="closed_1ake.pdb", help="model of the closed end")
    parser.add_argument("--truth", default="particles_truth.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and their particle files")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; cores are shared among them")
    parser.add_argument("--history", action="store_true", help="follow the poses of search and search-closed")
    parser.add_argument("--figure", type=Path, help="draw the histories (.svg)")
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("options", nargs="*", help="further options of cryomorph train, after --")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = [(label, seed) for label in arguments.rows.split(",") for seed in range(arguments.seeds)]
    for label in dict.fromkeys(label for label, _ in work):
        particles_of(ROWS[label], arguments)  # files are there before several runs need them at once
        chosen(ROWS[label], arguments)
    with ThreadPoolExecutor(arguments.workers) as pool:
        rows = list(pool.map(lambda item: run_one(arguments, *item), work))
    print_table(rows)
    if arguments.history:
        show_history(arguments, rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
