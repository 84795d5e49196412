"""What latents stand for (CryoChains, section 3.2): images along a morph, and the principal components of each block.

Example
-------
python benchmarks/morph.py --first DATA/hsp90/open_model.pdb --last DATA/hsp90/closed_2cg9.pdb --out results

Conformations between two models are simulated, and a run with one set of normal modes and one rigid motion for each
chain is trained on the images, with the first model as its template. Then the coordinates of each chain's modes, and
those of its rotation and translation together, are analysed by themselves. Coordinates are those in Å that latents
stand for: the latents themselves are in units of widths that are learned. Signs are such that scores grow along the
morph. `--out` will hold

morph.dcd, first.cif
    the conformations, and the atoms that they are of;
images, run
    what `simulate` and `train` wrote;
blocks.npz
    names of the blocks, and of each block scores, components, and the share of the variance that each explains;
modes_A.cif, rigid_A.cif, ...
    conformations along the first component of a block, all other blocks at their means.

What was simulated or trained before is not done again.
"""

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from biotraj import DCDTrajectoryFile
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from cryomorph.conformations.chains import Chains
from cryomorph.evaluation import Truth, read_truth
from cryomorph.geometry import angle_between, superpose
from cryomorph.results import FittedRun
from cryomorph.simulate import morph
from cryomorph.structure.model import read_template
from cryomorph.structure.write import write_models, write_template

ENDS = 0.05, 0.95
"""Quantiles of the scores between which conformations along a component are decoded."""


@dataclass(frozen=True)
class Block:
    """Principal components of some coordinates of one chain.

    Attributes
    ----------
    name, chain
        "modes A" or "rigid A", and "A".
    columns : array (k,)
        Which of the latent coordinates.
    scores : array (m, k)
        Of every image, Å.
    components : array (k, k)
        Orthonormal rows, the one that explains most first.
    explained : array (k,)
        Share of the variance.
    """

    name: str
    chain: str
    columns: np.ndarray
    scores: np.ndarray
    components: np.ndarray
    explained: np.ndarray

    @property
    def spread(self) -> float:
        """Root mean square distance of images from their mean, Å."""
        return float(np.sqrt(np.square(self.scores).sum(1).mean()))


def cryomorph(*command: object) -> None:
    """Run the command; what it says is shown only if it fails."""
    done = subprocess.run([sys.executable, "-m", "cryomorph", *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])


def simulate(arguments: argparse.Namespace) -> None:
    """Make the conformations, and images of them."""
    images = arguments.out / "images"
    if (images / "template.cif").exists():
        return
    ensemble = morph(read_template(arguments.first), read_template(arguments.last), arguments.conformations)
    write_template(arguments.out / "first.cif", ensemble.template)
    with DCDTrajectoryFile(str(arguments.out / "morph.dcd"), "w", force_overwrite=True) as file:
        file.write(ensemble.atom_coordinates)
    command = ["simulate", arguments.out / "morph.dcd", "--topology", arguments.out / "first.cif", "--out", images]
    command += ["--template", arguments.first, "--images", arguments.images, "--snr-db", arguments.snr_db]
    cryomorph(*command, "--box", 128, "--pixel-size", 2, "--seed", arguments.seed)


def train(arguments: argparse.Namespace) -> FittedRun:
    """Train with the first model as template, poses known, and compare with the truth."""
    images, run = arguments.out / "images", arguments.out / "run"
    latents = {"kind": arguments.latents} | ({"box": 32} if arguments.latents.endswith("encoder") else {})
    rates = {"learning_rate": 1e-3} if "box" in latents else {"latent_learning_rate": 0.5}
    settings = {"decoder": "chains", "latents": latents, "training": {"epochs": arguments.epochs} | rates}
    config = arguments.out / "settings.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = ["train", images / "particles.star", "--template", images / "template.cif", "--config", config]
    cryomorph(*command, "--out", run, "--seed", arguments.seed, *arguments.options)
    cryomorph("evaluate", run, "--truth", images / "truth.npz")
    return FittedRun(run)


def coordinates_of(model: Chains, latents: np.ndarray) -> np.ndarray:
    """Coordinates in Å that latents stand for, both (m, d)."""
    with torch.inference_mode():
        return model.spread(torch.from_numpy(latents).double()).double().numpy()


def blocks_of(model: Chains, coordinates: np.ndarray, place: np.ndarray) -> list[Block]:
    """Principal components of the modes and of the rigid motion of each chain."""
    columns: dict[tuple[str, str], list[int]] = {}
    for name, part in model.latent_blocks().items():
        kind, chain = name.split(" ", 1)
        key = "modes" if kind == "modes" else "rigid", chain
        columns.setdefault(key, []).extend(range(part.start, part.stop))
    blocks = []
    for (kind, chain), members in columns.items():
        centred = coordinates[:, members] - coordinates[:, members].mean(0)
        _, size, components = np.linalg.svd(centred, full_matrices=False)
        components *= np.sign(np.cov(centred @ components.T, place, rowvar=False)[:-1, -1])[:, None]
        explained = size**2 / np.square(size).sum()
        blocks.append(Block(f"{kind} {chain}", chain, np.array(members), centred @ components.T, components, explained))
    return blocks


def along(model: Chains, latents: np.ndarray, block: Block, steps: int = 5) -> np.ndarray:
    """Conformations (steps, n, 3) in Å along a block's first component, all other blocks at their means."""
    ends = np.quantile(block.scores[:, 0], ENDS)
    z = np.repeat(latents.mean(0, keepdims=True), steps, axis=0)
    slope = coordinates_of(model, np.ones_like(z[:1])) - coordinates_of(model, np.zeros_like(z[:1]))
    z[:, block.columns] += np.linspace(*ends, steps)[:, None] * block.components[0] / slope[:, block.columns]
    with torch.inference_mode():
        return model(torch.from_numpy(z)).double().numpy()


def motion(start: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """By how many degrees a chain turns and by how many Å its centre moves; shapes (r, 3)."""
    angle = angle_between(superpose(start, end)[0], np.eye(3))
    return float(np.rad2deg(angle)), float(np.linalg.norm((end - start).mean(0)))


def row_of(block: Block, path: np.ndarray, inside: np.ndarray, truth: Truth, place: np.ndarray) -> dict[str, object]:
    """Compare `path`, along a block's first component, with the true one between the same quantiles of the morph."""
    first, last = (truth.coordinates[round(end * (len(truth.coordinates) - 1))][inside] for end in ENDS)
    found, true = path[-1, inside] - path[0, inside], last - first
    turned, moved = motion(path[0, inside], path[-1, inside])
    true_turned, true_moved = motion(first, last)
    return {
        "block": block.name,
        "chain": block.chain,
        "spread": block.spread,
        "explained_1": float(block.explained[0]),
        "explained_2": float(block.explained[1]),
        "pearson": float(pearsonr(block.scores[:, 0], place).statistic),
        "spearman": float(spearmanr(block.scores[:, 0], place).statistic),
        "displacement": float(np.sqrt(np.square(found).sum(1).mean())),
        "true_displacement": float(np.sqrt(np.square(true).sum(1).mean())),
        "cosine": float((found * true).sum() / np.linalg.norm(found) / np.linalg.norm(true)),
        "turned": turned,
        "true_turned": true_turned,
        "moved": moved,
        "true_moved": true_moved,
    }


def draw(
    file: Path,
    blocks: list[Block],
    paths: list[np.ndarray],
    inside: list[np.ndarray],
    chain: np.ndarray,
    place: np.ndarray,
) -> None:
    """Scores as a density and by place along the morph, and three conformations along the first component."""
    middle = paths[0][len(paths[0]) // 2]
    view = np.linalg.svd(middle - middle.mean(0), full_matrices=False)[2][:2].T
    size = 2.5 * len(blocks), 7.2
    figure, panels = plt.subplots(3, len(blocks), figsize=size, layout="constrained", squeeze=False)
    for column, (block, path, moves) in enumerate(zip(blocks, paths, inside, strict=True)):
        density, coloured, traces = panels[:, column]
        first, second = block.scores[:, :2].T
        density.hist2d(first, second, bins=30, cmap="viridis")
        density.set_title(block.name)
        points = coloured.scatter(first, second, c=place, s=2, cmap="coolwarm")
        for panel in (density, coloured):
            panel.set_xlabel(f"PC1 / Å ({block.explained[0]:.0%})")
            panel.set_ylabel(f"PC2 / Å ({block.explained[1]:.0%})")
            panel.locator_params(nbins=4)
            panel.ticklabel_format(scilimits=(-2, 3))
        for number, shade in zip((0, len(path) // 2, -1), ("#f4a582", "#d6604d", "#8b0a1a"), strict=True):
            for index in np.unique(chain):
                rows = chain == index
                own = bool(moves[rows].all())
                traces.plot(*(path[number, rows] @ view).T, lw=0.7, color=shade if own else "0.8", zorder=1 + own)
        traces.set_aspect("equal")
        traces.axis("off")
    figure.colorbar(points, ax=panels[1, -1], label="place along the morph")
    figure.savefig(file, dpi=90)
    if file.suffix == ".png":
        Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


def table(rows: list[dict[str, object]]) -> str:
    """One line a block; motions are found / true."""
    lines = [
        f"{'block':10s}{'spread':>8s}{'PC1':>6s}{'PC2':>6s}{'Pearson':>9s}{'Spearman':>10s}"
        f"{'displaced':>14s}{'cosine':>8s}{'turned':>14s}{'moved':>14s}"
    ]
    for row in rows:
        pairs = {name: f"{row[name]:.1f} / {row[f'true_{name}']:.1f}" for name in ("displacement", "turned", "moved")}
        lines.append(
            f"{row['block']:10s}{row['spread']:8.2f}{row['explained_1']:6.0%}{row['explained_2']:6.0%}"
            f"{row['pearson']:9.2f}{row['spearman']:10.2f}{pairs['displacement']:>14s}{row['cosine']:8.2f}"
            f"{pairs['turned']:>14s}{pairs['moved']:>14s}"
        )
    return "\n".join(lines)


def main() -> None:
    """Simulate, train, analyse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, required=True, help="model at one end of the morph, and template")
    parser.add_argument("--last", type=Path, required=True, help="model of the same atoms at the other end")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--conformations", type=int, default=50)
    parser.add_argument("--images", type=int, default=24, help="of each conformation")
    parser.add_argument("--snr-db", type=float, default=-20.0, help="power signal-to-noise ratio of a whole image")
    parser.add_argument("--latents", default="variational", help="kind of latents")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write one row a block")
    parser.add_argument("--figure", type=Path, help="draw scores and conformations")
    parser.add_argument("options", nargs="*", help="further options of cryomorph train, after --")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    simulate(arguments)
    fitted = train(arguments)
    truth = read_truth(arguments.out / "images" / "truth.npz")
    place = truth.conformation[fitted.source_index] / (len(truth.coordinates) - 1)
    blocks = blocks_of(fitted.model, coordinates_of(fitted.model, fitted.latents), place)
    paths = [along(fitted.model, fitted.latents, block) for block in blocks]
    chain = fitted.template.chain
    inside = [chain == fitted.template.chain_names.index(block.chain) for block in blocks]
    rows = [row_of(*parts, truth, place) for parts in zip(blocks, paths, inside, strict=True)]
    arrays = {"names": np.array([block.name for block in blocks]), "place": place}
    for block, path in zip(blocks, paths, strict=True):
        name = block.name.replace(" ", "_")
        write_models(arguments.out / f"{name}.cif", fitted.template, path, len(path))
        arrays |= {f"{part}_{name}": getattr(block, part) for part in ("scores", "components", "explained")}
    np.savez(arguments.out / "blocks.npz", **arrays)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.figure:
        draw(arguments.figure, blocks, paths, inside, chain, place)
    print(table(rows))
    errors = json.loads((arguments.out / "run" / "evaluation.json").read_text())
    lines = {"mean": "mean RMSD", "median": "median", "template": "template", "constant": "best single conformation"}
    print(", ".join(f"{line} {errors[f'rmsd_{name}']:.2f} Å" for name, line in lines.items()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of CPU time")


if __name__ == "__main__":
    main()
