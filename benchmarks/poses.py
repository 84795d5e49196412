"""Scans of poses: seconds an image, rotations a second; the fast scan beside look-ups, the plain scan and rendering.

Example
-------
python benchmarks/poses.py --json rows.json
python benchmarks/poses.py --systems adk --boxes 256

Simulated images of a system are compared with one conformation at every rotation of a grid. All methods take turns in
one process, and ratios are medians over turns:

* `fast`: `RingScan.lowest`, both terms of the misfit, the projections of the conformation among the work. What is made
  once of each image, whatever it is compared with (`see`), is a row of its own, and there is a row with both.
* `look-up`: the cross term alone, one look-up in the image's window for each bead and rotation.
* `plain`: `PlainScan`, both terms exactly, with the matched filter.
* `own`: `OwnScan`, each image with a conformation of its own, as in a step of ESL; what is made of it is included.
* `direct`: `PlainScan` with rendered projections, as in paper A.

Of the slower ones a part of the rotations is timed and scaled to the grid; the table says which. `agreement` is the
share of images whose best rotation of the grid is the one of the plain scan, when the 64 best of the fast scan are
evaluated exactly; `agreement_16` likewise for the set of the 16 best.

A whole data set, from the window cache of a run, against some conformations:

cryomorph simulate adk_dims2.dcd --topology adk.psf --template open.pdb --images 1000 --box 128 --pixel-size 2 \
    --dtype float16 --out DATA
python benchmarks/poses.py --scan-images 102000 --star DATA/particles.star --template DATA/template.cif --cache CACHE
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from cryomorph.geometry import project
from cryomorph.gridding.transfer import transfer
from cryomorph.hardware import keep_freed_memory
from cryomorph.likelihood.direct import Direct, DirectSettings
from cryomorph.likelihood.matched_filter import MatchedFilter, MatchedFilterSettings
from cryomorph.particles.batch import ParticleBatch
from cryomorph.particles.loader import prefetch
from cryomorph.particles.stack import BatchSource, ParticleStack
from cryomorph.scan.exact import exact
from cryomorph.scan.fast import RingScan
from cryomorph.scan.grid import ProductGrid
from cryomorph.scan.own import OwnScan
from cryomorph.scan.plain import PlainScan
from cryomorph.structure.beads import Beads, bead_model
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.modes import displaced, template_modes
from likelihood import peak_memory
from systems import SYSTEMS
from training import simulated

KEPT = 64
"""Of the fast scan, evaluated exactly afterwards."""
COMPARED = 16
"""Of these, compared as a set."""
LOOKED_UP = 256
"""Projections that are looked up in one call."""
IMAGES_AT_ONCE = 2048
"""Of a whole data set."""
MOTION = 4.0
"""Å rms to both sides by which the conformations of a library differ along the softest motion."""


@dataclass(frozen=True, eq=False)
class Case:
    """What is compared with what.

    Attributes
    ----------
    likelihood
        With windows, and the gain of the true poses.
    beads
        Of one conformation.
    windowed, whole
        The same particles, with windows and with images.
    grid
        Rotations.
    """

    likelihood: MatchedFilter
    beads: Beads
    windowed: ParticleBatch
    whole: ParticleBatch
    grid: ProductGrid

    @property
    def rotations(self) -> Tensor:
        """All rotations of the grid, (n, 3, 3)."""
        direction, angle = np.divmod(np.arange(len(self.grid)), self.grid.in_plane)
        return torch.from_numpy(self.grid.rotations(direction, angle)).float().to(self.windowed.shift)

    def same(self, images: int) -> Beads:
        """Return the conformation for each of some images."""
        return replace(self.beads, positions=self.beads.positions.expand(images, -1, -1))


def opened(star: Path, template: Template) -> ParticleStack:
    """Open particles, with the background as training has it."""
    stack = ParticleStack.open(star)
    radius = float(np.linalg.norm(template.coordinates, axis=1).max()) + 10
    return stack.with_background_radius(min(radius, 0.48 * stack.field_of_view))


def prepared(
    stack: ParticleStack, template: Template, kind: str, cache: Path, device: torch.device, room: float
) -> tuple[MatchedFilter, Callable[[Tensor], Beads], BatchSource]:
    """Return a likelihood with windows, what gives conformations their beads, and where batches come from."""
    model = bead_model(template, kind).to(device)
    likelihood = MatchedFilter(MatchedFilterSettings(), int(stack.table.optics_group.max()) + 1).to(device)
    coordinates = torch.from_numpy(template.coordinates).float().to(device)
    cache.mkdir(parents=True, exist_ok=True)
    return likelihood, model, likelihood.prepare(stack, model(coordinates[None]), cache, room=room)


@torch.no_grad()
def set_gain(likelihood: MatchedFilter, beads: Beads, batch: ParticleBatch) -> None:
    """Estimate the gain at the poses of the particle file."""
    same = replace(beads, positions=beads.positions.expand(len(batch), -1, -1))
    likelihood(same, batch.rotation, batch.shift, batch)
    likelihood.update_gain()


def make_case(system: str, box: int, folder: Path, arguments: argparse.Namespace) -> Case:
    """Simulate images of a system, and make their windows."""
    device = torch.device(arguments.device)
    star = simulated(folder, system, box, arguments.images)
    template = read_template(star.parent / "template.cif")
    stack = opened(star, template)
    likelihood, model, source = prepared(stack, template, arguments.beads, star.parent / "cache", device, 0.0)
    beads = model(torch.from_numpy(template.coordinates).float().to(device)[None])
    rows = np.arange(len(stack))
    case = Case(likelihood, beads, source.batch(rows).to(device), stack.batch(rows).to(device), arguments.grid)
    set_gain(likelihood, beads, case.windowed)
    return case


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of some work."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def look_up(case: Case, images: int, rotations: Tensor) -> None:
    """Look the beads up in the windows of some images at rotations, one by one; the best of each is kept."""
    windows, engine = case.likelihood.windows, case.likelihood.settings.engine
    collect = transfer(engine, rotations.device).collect
    for number in range(images):
        batch = case.windowed[torch.tensor([number], device=rotations.device)]
        step = windows.grid.step(batch.pixel_size)
        size = torch.searchsorted(windows.pixel_sizes, batch.pixel_size)
        best = torch.full((), -torch.inf, device=rotations.device)
        for chunk in rotations.split(LOOKED_UP):
            many = len(chunk)
            positions = case.beads.positions.expand(many, -1, -1)
            points = project(positions, chunk, batch.shift.new_zeros(many, 2)) / step
            samples = batch.statistic.float().expand(many, -1)
            total, _ = collect(
                samples,
                windows.rows,
                (points + windows.rows.size // 2).contiguous(),
                case.beads.amplitude,
                windows.footprints,
                size.expand(many).contiguous(),
            )
            best = torch.maximum(best, total.max())


def agreement(case: Case, scan: RingScan, images: int) -> tuple[float, float]:
    """Share of images with the same best rotation, and the same set of the best, as the plain scan finds."""
    batch = case.windowed[torch.arange(images, device=case.windowed.shift.device)]
    found = exact(scan.lowest(scan.see(batch), case.beads, KEPT), batch, case.beads, case.likelihood)
    plain = PlainScan(case.rotations).lowest(batch, case.same(images), case.likelihood, COMPARED)
    near = (found.rotation[:, :COMPARED, None].float() - plain.rotation[:, None]).abs().amax((-1, -2)) < 1e-4
    return float(near[:, 0, 0].float().mean()), float(near.any(2).all(1).float().mean())


def measure(system: str, box: int, folder: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Return the rows of all methods."""
    case, device = make_case(system, box, folder, arguments), torch.device(arguments.device)
    scan = RingScan(case.likelihood, case.grid)
    seen = scan.see(case.windowed)
    direct = Direct(DirectSettings(), len(case.likelihood.gain)).to(device)
    direct.gain.copy_(case.likelihood.gain)
    own = OwnScan(case.likelihood, case.grid)
    every, few = case.rotations, torch.arange(arguments.few, device=device)
    part = {name: every[: getattr(arguments, f"{name}_rotations")] for name in ("lookup", "plain", "direct")}
    plain, rendered = PlainScan(part["plain"]), PlainScan(part["direct"])
    one = few[:1]
    # Of each: the work, the images and the share of the grid that it is for.
    works: dict[str, tuple[Callable[[], object], int, int]] = {
        "image transform": (lambda: scan.see(case.windowed), len(case.windowed), len(every)),
        "fast": (lambda: scan.lowest(seen, case.beads, KEPT), len(case.windowed), len(every)),
        "look-up": (lambda: look_up(case, len(few), part["lookup"]), len(few), len(part["lookup"])),
        "own": (
            lambda: own.lowest(case.windowed[few], case.same(len(few)), COMPARED),
            *(len(few), len(every)),
        ),
        "plain": (
            lambda: plain.lowest(case.windowed[few], case.same(len(few)), case.likelihood, 1),
            *(len(few), len(part["plain"])),
        ),
        "direct": (
            lambda: rendered.lowest(case.whole[one], case.same(1), direct, 1),
            *(1, len(part["direct"])),
        ),
    }
    for work, _, _ in works.values():  # compiles
        work()
    turns = [
        {
            name: seconds(work, device) / images * len(every) / rotations
            for name, (work, images, rotations) in works.items()
        }
        for _ in range(arguments.repeats)
    ]
    for turn in turns:
        turn["fast and transform"] = turn["fast"] + turn["image transform"]
    agreed = agreement(case, scan, arguments.agreement_images)
    timed = {name: rotations for name, (_, _, rotations) in works.items()} | {"fast and transform": len(every)}
    rows = []
    for name in ("image transform", "fast", "fast and transform", "look-up", "own", "plain", "direct"):
        per_image = statistics.median(turn[name] for turn in turns)
        compares = name != "image transform"
        rows.append(
            {
                "method": name,
                "system": system,
                "beads": case.beads.positions.shape[1],
                "box": box,
                "device": arguments.device,
                "rotations": len(every),
                "timed_rotations": timed[name],
                "seconds_per_image": per_image,
                "rotations_per_second": round(len(every) / per_image) if compares else None,
                "times_fast": statistics.median(turn[name] / turn["fast"] for turn in turns),
                "agreement": agreed[0] if name == "fast" else None,
                "agreement_16": agreed[1] if name == "fast" else None,
            }
        )
    return rows


def print_rows(rows: list[dict[str, object]]) -> None:
    for row in rows:
        rate = "" if row["rotations_per_second"] is None else f"{row['rotations_per_second']:,d}"
        agreed = "" if row["agreement"] is None else f"{row['agreement']:.2f} / {row['agreement_16']:.2f}"
        print(
            f"{row['system']:8s}{row['beads']:6d}{row['box']:5d}  {row['method']:20s}"
            f"{1e3 * row['seconds_per_image']:14.3f}{rate:>14s}{row['times_fast']:12.2f}"
            f"{row['timed_rotations']:9,d} of {row['rotations']:,d}   {agreed}",
            flush=True,
        )


def along_softest(template: Template, count: int) -> Tensor:
    """Conformations along the template's softest motion, (count, n, 3) Å."""
    modes = template_modes(template, 1)
    amplitudes = np.linspace(-MOTION, MOTION, count)[:, None]
    return torch.from_numpy(np.asarray(displaced(template.coordinates, modes, amplitudes))).float()


def scan_all(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Scan a whole data set, streamed from the window cache; returns minutes and memory."""
    device = torch.device(arguments.device)
    star = arguments.star or simulated(folder, "adk", 128, arguments.scan_images)
    template = read_template(arguments.template or star.parent / "template.cif")
    stack = opened(star, template).select(np.arange(arguments.scan_images))
    start = time.perf_counter()
    room = 2 * MOTION
    likelihood, model, source = prepared(stack, template, arguments.beads, arguments.cache or folder, device, room)
    print(f"windows of {len(stack):,d} images: {(time.perf_counter() - start) / 60:.2f} minutes", flush=True)
    library = model(along_softest(template, arguments.conformations).to(device))
    same = model(torch.from_numpy(template.coordinates).float().to(device)[None])
    set_gain(likelihood, same, source.batch(np.arange(min(len(stack), 512))).to(device))
    scan = RingScan(likelihood, arguments.grid)
    compile_first = source.batch(np.arange(min(len(stack), 64))).to(device)
    scan.lowest(scan.see(compile_first), library, KEPT)
    start = time.perf_counter()
    parts = np.array_split(np.arange(len(stack)), -(-len(stack) // IMAGES_AT_ONCE))
    for batch in prefetch(source, parts):
        scan.lowest(scan.see(batch.to(device)), library, KEPT)
    if device.type == "cuda":
        torch.cuda.synchronize()
    minutes = (time.perf_counter() - start) / 60
    comparisons = len(stack) * len(arguments.grid) * arguments.conformations
    row: dict[str, object] = {
        "method": "scan of a data set",
        "system": star.parent.name,
        "device": arguments.device,
        "images": len(stack),
        "conformations": arguments.conformations,
        "rotations": len(arguments.grid),
        "minutes": minutes,
        "seconds_per_image": 60 * minutes / len(stack),
        "rotations_per_second": round(comparisons / (60 * minutes)),
        "peak_rss_mb": round(peak_memory()),
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
    }
    print(
        f"{len(stack):,d} images, {len(arguments.grid):,d} rotations, {arguments.conformations} conformations: ", end=""
    )
    print(f"{minutes:.2f} minutes, peak memory {row['peak_rss_mb']:,d} MiB")
    return row


def main() -> None:
    """Print a table, and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="adk", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--boxes", default="128", help="pixels over 256 Å")
    parser.add_argument("--beads", default="residue")
    parser.add_argument("--grid", default="400x72", help="viewing directions x in-plane angles")
    parser.add_argument("--images", type=int, default=1024, help="that the fast scan compares at a time")
    parser.add_argument("--few", type=int, default=4, help="images of look-up and plain scan")
    parser.add_argument("--lookup-rotations", type=int, default=28_800, help="timed at most")
    parser.add_argument("--plain-rotations", type=int, default=4096, help="timed at most")
    parser.add_argument("--direct-rotations", type=int, default=512, help="timed at most")
    parser.add_argument("--agreement-images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, help="folder to keep the simulated images in [default: a temporary one]")
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--scan-images", type=int, help="scan so many images instead, of --star or simulated ones")
    parser.add_argument("--star", type=Path, help="particles with poses, for --scan-images")
    parser.add_argument("--template", type=Path, help="docked model, for --scan-images")
    parser.add_argument("--cache", type=Path, help="folder for the windows, for --scan-images")
    parser.add_argument("--conformations", type=int, default=8, help="for --scan-images")
    arguments = parser.parse_args()
    arguments.grid = ProductGrid(*map(int, arguments.grid.split("x")))
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as in training
    print(f"{arguments.device}, {arguments.threads} threads, {time.strftime('%Y-%m-%d')}")
    with TemporaryDirectory() as temporary:
        folder = arguments.data or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.scan_images:
            rows = [scan_all(arguments, folder)]
        else:
            print(
                f"{'system':8s}{'beads':>6s}{'box':>5s}  {'method':20s}{'ms an image':>14s}{'rotations/s':>14s}", end=""
            )
            print(f"{'× fast':>12s}   timed rotations   agreement (best / best 16)")
            rows = []
            for system in arguments.systems.split(","):
                for box in arguments.boxes.split(","):
                    found = measure(system, int(box), folder, arguments)
                    print_rows(found)
                    rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
