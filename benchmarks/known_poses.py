"""Accuracy with known poses: decoders, beads and the R2 prior, several seeds each, against a known truth.

Example
-------
python benchmarks/known_poses.py --data DATA/adk --template open_4ake.pdb --out results --seeds 3 --workers 2

`DATA/adk` holds `particles.star`, its stack, the truth (`particles_truth.npz`) and the template. Every run is an
ordinary run folder under `--out`, continued if it was stopped. `--json FILE` writes one row a run.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SYSTEMS = "gnn:ca,gnn:residue,mlp:ca,mlp:residue"


def run_one(arguments: argparse.Namespace, decoder: str, beads: str, r2: bool, seed: int) -> dict[str, object]:
    """Train and evaluate one run in processes of its own; returns its row."""
    name = f"{decoder}-{beads}-{'r2' if r2 else 'no-r2'}-seed{seed}"
    folder = arguments.out / name
    command = [sys.executable, "-m", "cryomorph"]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // arguments.workers))}
    options = ["--decoder", decoder, "--beads", beads, "--seed", str(seed), *arguments.options]
    if not r2:
        options += ["--r2", "0"]
    started = time.monotonic()
    train = ["train", str(arguments.data / "particles.star"), "--template", str(arguments.data / arguments.template)]
    subprocess.run(
        [*command, *train, "--out", str(folder), *options], check=True, env=environment, stderr=subprocess.DEVNULL
    )
    seconds = time.monotonic() - started
    truth = str(arguments.data / arguments.truth)
    subprocess.run(
        [*command, "evaluate", str(folder), "--truth", truth], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    result = json.loads((folder / "evaluation.json").read_text())
    row = {"decoder": decoder, "beads": beads, "r2": r2, "seed": seed, "seconds": round(seconds, 1)} | result
    print(f"{name:32s} {result['rmsd_mean']:.3f} Å  {seconds:.0f} s", flush=True)
    return row


def main() -> None:
    """Run all combinations and print mean and spread over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with particles.star, truth and template")
    parser.add_argument("--template", default="open_4ake.pdb")
    parser.add_argument("--truth", default="particles_truth.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--systems", default=SYSTEMS, help="decoder:beads pairs, separated by commas")
    parser.add_argument("--r2", default="yes,no", help="with and without the R2 prior, or one of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time; cores are shared among them")
    parser.add_argument("--json", type=Path, help="write one row a run")
    parser.add_argument("options", nargs="*", help="further options of cryomorph train, after --")
    arguments = parser.parse_args()
    systems = [tuple(pair.split(":")) for pair in arguments.systems.split(",")]
    priors = [answer == "yes" for answer in arguments.r2.split(",")]
    work = [(*system, r2, seed) for r2 in priors for seed in range(arguments.seeds) for system in systems]
    with ThreadPoolExecutor(arguments.workers) as pool:
        rows = list(pool.map(lambda item: run_one(arguments, *item), work))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{'decoder':8s}{'beads':9s}{'R2':5s}{'mean RMSD':>10s}{'spread':>8s}")
    for (decoder, beads), r2 in itertools.product(systems, priors):
        values = [
            float(str(row["rmsd_mean"]))
            for row in rows
            if (row["decoder"], row["beads"], row["r2"]) == (decoder, beads, r2)
        ]
        spread = max(values) - min(values)
        print(f"{decoder:8s}{beads:9s}{'yes' if r2 else 'no':5s}{np.mean(values):10.3f}{spread:8.3f}")
    print(f"baselines: template {rows[0]['rmsd_template']:.3f}, best constant {rows[0]['rmsd_constant']:.3f}")


if __name__ == "__main__":
    main()
