"""Table 1 of paper A, from the simulation to the table: decoders, with and without R2, poses known and found by ESL.

Example
-------
python benchmarks/papers.py --out results --json results/rows.json
python benchmarks/papers.py --size paper --nsp13 DATA/nsp13 --out results

Images are made by multislice (`cryomorph simulate --physics multislice`): 300 kV, defocus 2.0 µm, 150 Å of ice,
100 e/Å².

adk
    Adenylate kinase from closed to open, the 102 frames that paper A used (package MDAnalysisTests).
nsp13
    Paper A's trajectory is not at hand. `--nsp13` is a folder with `start_desres.pdb`, where it starts, and
    `closed_5rmm_B.pdb`, another conformation of the same protein. The path has 200 frames: each is a step from the
    one before towards the other model, as far as its 60 softest normal modes (elastic network, 15 Å) can do it and
    distances along the chain are kept; atoms follow the backbone, and bonds are mended.

Two sets of settings are compared on the same images:

paper
    Models and priors as paper A has them: one Gaussian on each Cα, latents that are points, priors of a fixed strength
    that compare each conformation with the template, no search for where particles go on, nothing calibrated, every
    coefficient fitted; poses known, or by ESL over some 14,800 rotations. Learning rates and the number of epochs are
    ours: paper A trains many times as long.
default
    What `cryomorph train` does by itself; without poses, with `--poses search`.

`--size small` takes two cores an hour or two; `paper` has the paper's number of images and pixels, for a GPU. What was
simulated, trained and evaluated before is not done again. `--only` picks rows by a part of their names.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo_data
from cryomorph.geometry import superpose
from cryomorph.structure.allatom import AllAtoms
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.modes import normal_modes
from cryomorph.structure.write import write_atoms, write_template

FRAMES, MODES = 200, 60
"""Of the path of NSP13, and normal modes that it may use."""
AGAIN, SWEEPS = 20, 60
"""Frames after which modes are computed again, and rounds of bringing distances along the chain back in each."""
THEIRS = {
    ("adk", "known"): {("gnn", True): 1.09, ("mlp", True): 1.24, ("gnn", False): 1.44, ("mlp", False): 2.30},
    ("adk", "esl"): {("gnn", True): 1.92, ("mlp", True): 1.95, ("gnn", False): 2.21, ("mlp", False): 2.94},
    ("nsp13", "known"): {("gnn", True): 2.08, ("mlp", True): 2.37, ("gnn", False): 2.38, ("mlp", False): 3.32},
}
"""Paper A, table 1: mean Cα RMSD in Å."""


@dataclass(frozen=True)
class Size:
    """How many images of what size, and how long they are looked at."""

    images: dict[str, int]
    box: int
    pixel_size: float
    epochs: int
    esl_every: int
    esl_epochs: int
    esl_batch: int


SIZES = {
    "small": Size(
        images={"adk": 30, "nsp13": 10}, box=128, pixel_size=2.0, epochs=30, esl_every=12, esl_epochs=15, esl_batch=8
    ),
    "paper": Size(
        images={"adk": 1000, "nsp13": 1000},
        box=256,
        pixel_size=1.0,
        epochs=30,
        esl_every=1,
        esl_epochs=15,
        esl_batch=32,
    ),
}
"""Images of each conformation. A scan of all rotations takes long: with ESL every so-many-th image counts, and batches
are smaller where images are few, so that there are steps enough."""


@dataclass(frozen=True)
class Run:
    """One row of the table."""

    system: str
    decoder: str
    r2: bool
    poses: str
    settings: str
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        r2 = "r2" if self.r2 else "no-r2"
        return f"{self.system}_{self.settings}_{self.decoder}_{r2}_{self.poses}_seed{self.seed}"

    def configuration(self, size: Size) -> dict[str, object]:
        """Return what is not default."""
        if self.settings == "default":
            return {"poses": self.poses, "training": {"epochs": size.epochs}}
        wide = self.system == "nsp13"
        decoder = {"kind": "gnn", "features": 32 if wide else 16}
        if self.decoder == "mlp":
            decoder = {"kind": "mlp", "width": 64 if wide else 32}
        esl = self.poses == "esl"
        terms = {} if self.r2 else {"terms": {"log_distance": {"weight": 0.0}}}
        return {
            "decoder": decoder,
            "latents": "table",
            "beads": "ca",
            "poses": self.poses,
            "latent_prior": 1.0,
            "priors": {"strength": 100.0} | terms,
            "moving": {"epochs": []},
            "calibration": {"shells": "none"},
            "free": {"share": 0.0},
            "training": {
                "epochs": size.esl_epochs if esl else size.epochs,
                "batch_size": size.esl_batch if esl else 32,
                "latent_steps": 0,
                "patience": 0,
                "latents_free": 0.0,
            },
        }


def runs(systems: list[str], seeds: int) -> Iterator[Run]:
    """Yield all rows: ours at its best first, then those of the paper."""
    for system in systems:
        for seed in range(seeds):
            for poses in ("known", "search"):
                yield Run(system, "gnn", True, poses, "default", seed)
        for poses in ("known", "esl") if system == "adk" else ("known",):
            for seed in range(seeds):
                for r2 in (True, False):
                    for decoder in ("gnn", "mlp"):
                        yield Run(system, decoder, r2, poses, "paper", seed)


def cryomorph(command: list[str], threads: int) -> None:
    """Run the command; what it says is shown only if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "cryomorph", *command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"cryomorph {' '.join(command)}\n{done.stderr[-2000:]}")


def towards(start: Template, rows: np.ndarray, target: np.ndarray) -> Iterator[np.ndarray]:
    """Yield frames (n, 3) from a model to where some of its residues are in another one.

    A step is what the softest modes can do of an equal share of what is left; then Cα atoms that are one or two bonds
    apart are brought back to their distances.
    """
    x = start.coordinates.copy()
    chained = [np.flatnonzero(start.bonded), np.flatnonzero(start.bonded[:-1] & start.bonded[1:])]
    pairs = [(one, one + gap) for gap, one in enumerate(chained, start=1)]
    lengths = [np.linalg.norm(x[b] - x[a], axis=1) for a, b in pairs]
    for frame in range(FRAMES):
        yield x.copy()
        if frame % AGAIN == 0:
            vectors = normal_modes(x, MODES).vectors
            seen = vectors[:, rows].reshape(MODES, -1).T
        left = (target - x[rows]).ravel() / (FRAMES - 1 - frame) if frame + 1 < FRAMES else 0 * target.ravel()
        x += np.einsum("k,kni->ni", np.linalg.lstsq(seen, left, rcond=None)[0], vectors)
        for _ in range(SWEEPS):
            for (a, b), length in zip(pairs, lengths, strict=True):
                apart = x[b] - x[a]
                distance = np.linalg.norm(apart, axis=1)
                correction = 0.25 * ((distance - length) / distance)[:, None] * apart
                np.add.at(x, a, correction)
                np.subtract.at(x, b, correction)


def path_of_nsp13(folder: Path, out: Path) -> Path:
    """Write the path as `nsp13.dcd`, and `nsp13.cif`, of which it is; returns the folder."""
    start, other = (read_template(folder / name) for name in ("start_desres.pdb", "closed_5rmm_B.pdb"))
    known = {name: row for row, name in enumerate(other.residue_ids)}
    common = np.array([(row, known[name]) for row, name in enumerate(start.residue_ids) if name in known])
    rotation, translation = superpose(other.coordinates[common[:, 1]], start.coordinates[common[:, 0]])
    target = other.coordinates @ rotation.T + translation
    traces = list(towards(start, common[:, 0], target[common[:, 1]]))
    atoms = AllAtoms(start)
    out.mkdir(parents=True, exist_ok=True)
    write_atoms(out / "nsp13.dcd", start, (atoms(trace[None])[0] for trace in traces), FRAMES)
    write_template(out / "nsp13.cif", start)
    return out


def simulate(arguments: argparse.Namespace, system: str) -> None:
    """Make the images of a system."""
    folder, size = arguments.out / "data" / system, SIZES[arguments.size]
    if (folder / "template.cif").exists():
        return
    if system == "adk":
        source = [str(demo_data(TRAJECTORY)), "--topology", str(demo_data(TOPOLOGY))]
        template = str(demo_data(MODEL))
    else:
        path = path_of_nsp13(arguments.nsp13, arguments.out / "data" / "path")
        source = [str(path / "nsp13.dcd"), "--topology", str(path / "nsp13.cif")]
        template = str(path / "nsp13.cif")
    pixels = ["--box", str(size.box), "--pixel-size", str(size.pixel_size), "--images", str(size.images[system])]
    optics = ["--physics", "multislice", "--defocus", "20000", "--dose", "100", "--seed", "3"]
    cryomorph(
        ["simulate", *source, "--template", template, *pixels, *optics, "--out", str(folder)], os.cpu_count() or 1
    )


def without_poses(star: Path) -> Path:
    """Write a copy of a particle file without the columns of poses; returns it."""
    path, dropped = star.with_name("unposed.star"), ("_rlnAngle", "_rlnOrigin")
    if path.exists():
        return path
    lines = star.read_text().splitlines()
    begin = lines.index("data_particles")
    names = [line.split()[0] for line in lines[begin:] if line.startswith("_rln")]
    kept = [column for column, name in enumerate(names) if not name.startswith(dropped)]
    rows = [line.split() for line in lines[begin:] if "@" in line]
    head = [*lines[:begin], "data_particles", "", "loop_", *(names[column] for column in kept)]
    body = [" ".join(row[column] for column in kept) for row in rows]
    path.write_text("\n".join([*head, *body, ""]))
    return path


def train(arguments: argparse.Namespace, run: Run, threads: int) -> dict[str, object]:
    """Train and evaluate one run, unless that was done; returns its row."""
    row_file, folder = arguments.out / "rows" / f"{run.name}.json", arguments.out / "runs" / run.name
    if row_file.exists():
        done: dict[str, object] = json.loads(row_file.read_text())
        return done
    data, size = arguments.out / "data" / run.system, SIZES[arguments.size]
    known = data / "particles.star"
    star = known if run.poses == "known" else without_poses(known)
    options = []
    if run.poses == "esl" and size.esl_every > 1:
        count = sum("@" in line for line in known.read_text().splitlines())
        np.save(data / "some.npy", np.arange(0, count, size.esl_every))
        options = ["--indices", str(data / "some.npy")]
    settings = arguments.out / "settings" / f"{run.name}.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(yaml.safe_dump(run.configuration(size)))
    started = time.monotonic()
    inputs = [str(star), "--template", str(data / "template.cif"), "--out", str(folder), "--config", str(settings)]
    cryomorph(["train", *inputs, "--seed", str(run.seed), *options], threads)
    seconds = time.monotonic() - started
    cryomorph(["evaluate", str(folder), "--truth", str(data / "truth.npz")], threads)
    result = json.loads((folder / "evaluation.json").read_text())
    row = vars(run) | {"images": result["images"], "seconds": round(seconds, 1)}
    row |= {name: result[name] for name in ("rmsd_mean", "rmsd_constant", "rmsd_template")}
    row_file.parent.mkdir(parents=True, exist_ok=True)
    row_file.write_text(json.dumps(row) + "\n")
    print(f"{run.name:44s} {row['rmsd_mean']:.3f} Å  {seconds:.0f} s", flush=True)
    return row


def table(rows: list[dict[str, object]]) -> str:
    """Mean and spread over seeds, beside the paper's."""
    kinds = ("system", "settings", "decoder", "r2", "poses")
    head = f"{'system':8s}{'settings':10s}{'decoder':9s}{'R2':5s}{'poses':8s}"
    lines = [head + f"{'ours (Å)':>10s}{'spread':>8s}{'paper A':>9s}"]
    for kind in dict.fromkeys(tuple(row[name] for name in kinds) for row in rows):
        system, settings, decoder, r2, poses = kind
        errors = [float(str(row["rmsd_mean"])) for row in rows if tuple(row[name] for name in kinds) == kind]
        theirs = THEIRS.get((str(system), "known" if poses == "known" else "esl"), {}).get((str(decoder), bool(r2)))
        lines.append(
            f"{system:8s}{settings:10s}{decoder:9s}{'yes' if r2 else 'no':5s}{poses:8s}{np.mean(errors):10.3f}"
            f"{max(errors) - min(errors):8.3f}{'' if theirs is None else f'{theirs:.2f}':>9s}"
        )
    for system in dict.fromkeys(row["system"] for row in rows):
        one = next(row for row in rows if row["system"] == system)
        lines.append(
            f"{system}: the template {one['rmsd_template']:.3f} Å, the best constant {one['rmsd_constant']:.3f} Å"
        )
    return "\n".join(lines)


def main() -> None:
    """Simulate, train, evaluate; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--nsp13", type=Path, help="folder with the models of NSP13, for its rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="parts of names of rows, separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; cores are shared among them")
    parser.add_argument("--json", type=Path, help="write one row a run")
    arguments = parser.parse_args()
    systems = ["adk"] if arguments.nsp13 is None else ["adk", "nsp13"]
    parts = arguments.only.split(",")
    chosen = [run for run in runs(systems, arguments.seeds) if any(part in run.name for part in parts)]
    for system in dict.fromkeys(run.system for run in chosen):
        simulate(arguments, system)
    threads = max(1, (os.cpu_count() or 1) // arguments.workers)
    with ThreadPoolExecutor(arguments.workers) as pool:
        rows = list(pool.map(lambda run: train(arguments, run, threads), chosen))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
