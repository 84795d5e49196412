"""Value and gradient of the likelihood: images a second, bytes an image, memory; matched filter beside direct.

Example
-------
python benchmarks/likelihood.py --json rows.json

Each system, bead kind and box is measured in a process of its own, both likelihoods in turn, so that a machine whose
speed drifts slows both. The ratio is the median over the turns of the ratio of their times.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cryomorph.config import component
from cryomorph.hardware import keep_freed_memory
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads, bead_model
from systems import SYSTEMS, make_batch, template_of

BOXES = {128: 2.0, 256: 1.0}  # pixels: Å per pixel


class Images:
    """The images of one batch, as what a likelihood prepares windows from."""

    def __init__(self, batch: ParticleBatch) -> None:
        self.whole = batch
        self.box = batch.image.shape[-1]
        self.background_radius = 1.0
        self.source_box, self.files = np.array([self.box]), ()
        self.file_index = self.frame = np.arange(len(batch))
        self.pixel_size = batch.pixel_size.double().numpy()
        self.sign = np.ones(len(batch))
        for name in ("optics_group", "shift"):
            setattr(self, name, getattr(batch, name).numpy())
        for name, value in vars(batch.ctf).items():
            setattr(self, name, value.double().numpy())
        self.table = self

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, rows: np.ndarray, *, images: bool = True) -> ParticleBatch:
        """Return some of them."""
        chosen = torch.from_numpy(rows)
        names = ("index", "pixel_size", "optics_group", "rotation", "shift", "ctf")
        taken = {name: getattr(self.whole, name)[chosen] for name in names}
        return replace(self.whole, image=self.whole.image[chosen] if images else None, **taken)


def value_and_gradient(likelihood: Likelihood, beads: Beads, batch: ParticleBatch) -> Callable[[], None]:
    """Return a step: misfit of every image, and its gradient by the positions of the beads."""
    positions = beads.positions.detach().requires_grad_()

    def step() -> None:
        positions.grad = None
        likelihood(replace(beads, positions=positions), batch.rotation, batch.shift, batch).sum().backward()
        if positions.is_cuda:
            torch.cuda.synchronize()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Time of a step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_memory() -> float:
    """Peak resident memory of this process so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(system: str, kind: str, box: int, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Return the rows of both likelihoods."""
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as in training
    device = torch.device(arguments.device)
    template, batch = template_of(system), make_batch(arguments.batch, box, BOXES[box])
    model = bead_model(template, kind).to(device)
    coordinates = torch.from_numpy(template.coordinates).float().to(device)
    beads = model(coordinates.expand(len(batch), -1, -1))
    made = {name: component("likelihood", name) for name in ("matched_filter", "direct")}
    likelihoods = {name: cls(cls.Settings(), 1).to(device) for name, cls in made.items()}
    with TemporaryDirectory() as folder:
        source = likelihoods["matched_filter"].prepare(Images(batch), model(coordinates[None]), Path(folder))
        windowed = source.batch(np.arange(len(batch))).to(device)
    steps = {
        "matched_filter": value_and_gradient(likelihoods["matched_filter"], beads, windowed),
        "direct": value_and_gradient(likelihoods["direct"], beads, batch.to(device)),
    }
    peaks = {}
    for name, step in steps.items():  # the smaller first: memory is counted up
        for _ in range(3):
            step()
        peaks[name] = peak_memory()
    times = [[min(seconds(step) for _ in range(2)) for step in steps.values()] for _ in range(arguments.repeats)]
    ratio = float(np.median([direct / matched for matched, direct in times]))
    stored = {"matched_filter": windowed.statistic[0].numel() * windowed.statistic.element_size(), "direct": 4 * box**2}
    pairs = "molecule" if likelihoods["matched_filter"]._cut_pairs is not None else "box"
    return [
        {
            "engine": name,
            "system": system,
            "beads": len(beads.width),
            "bead_kind": kind,
            "box": box,
            "device": arguments.device,
            "images_per_second": round(len(batch) / float(np.median(column))),
            "bytes_per_image": stored[name],
            "peak_rss_mb": round(peaks[name]),
            "times_direct": round(ratio, 1) if name == "matched_filter" else 1.0,
            "pairs": pairs if name == "matched_filter" else "",
        }
        for name, column in zip(steps, np.transpose(times), strict=True)
    ]


def main() -> None:
    """Print a table, and write its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--beads", default="ca,residue")
    parser.add_argument("--boxes", default="128,256")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        system, kind, box = arguments.one.split(":")
        print(json.dumps(measure(system, kind, int(box), arguments)))
        return
    print(f"{arguments.device}, {arguments.threads} threads, batches of {arguments.batch}, {time.strftime('%Y-%m-%d')}")
    print(f"{'system':8s}{'beads':>7s}{'box':>5s}  {'likelihood':15s}{'images/s':>9s}{'× direct':>10s}", end="")
    print(f"{'B/image':>9s}{'peak MiB':>10s}  pair term")
    rows = []
    for system in arguments.systems.split(","):
        for kind in arguments.beads.split(","):
            for box in arguments.boxes.split(","):
                command = [sys.executable, *sys.argv, "--one", f"{system}:{kind}:{box}"]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                for row in json.loads(answer.splitlines()[-1]):
                    rows.append(row)
                    print(
                        f"{row['system']:8s}{row['beads']:7d}{row['box']:5d}  {row['engine']:15s}"
                        f"{row['images_per_second']:9,d}{row['times_direct']:10.1f}{row['bytes_per_image']:9,d}"
                        f"{row['peak_rss_mb']:10,d}  {row['pairs']}",
                        flush=True,
                    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
