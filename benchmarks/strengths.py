r"""Strengths and sizes, one at a time: the error of each against the truth, and what free coefficients say.

Example
-------
python benchmarks/strengths.py --data DATA --out results --json rows.json
python benchmarks/strengths.py --data DATA --out results --systems adk-1k,adk-3k,adk-10k --settings S25,S100,S400
python benchmarks/strengths.py --data DATA --out results --systems adk-30k --settings S25,S100,S400 --epochs 5

`DATA` holds `adk` (images of an established multislice program), `hsp90` and `nsp13` (models). All other images are
simulated here. Every setting is one change to the defaults, of which `auto` is one; `--epochs` comes on top, so that
many images do not take all day. What was simulated, trained and evaluated before is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryomorph.demo import MODEL, TOPOLOGY, TRAJECTORY, demo_data

SETTINGS: dict[str, list[str]] = {
    "auto": [],
    **{f"S{strength}": ["--prior-strength", str(strength)] for strength in (3, 10, 25, 30, 100, 300, 400, 1000)},
    "P0.3": ["--no-auto", "--latent-prior", "0.3"],
    "P3": ["--no-auto", "--latent-prior", "3"],
    "d2": ["--no-auto", "--latent-dim", "2"],
    "ca": ["--no-auto", "--beads", "ca"],
    "atom": ["--no-auto", "--beads", "atom"],
    "E15": ["--no-auto", "--epochs", "15"],
    "E60": ["--no-auto", "--epochs", "60"],
}
"""Options of each; with `--no-auto` the strength is 100."""
TUNED = "auto,S10,S30,S100,S300,S1000,P0.3,P3,d2,ca,E15,E60"
ADK = ["--box", "96", "--pixel-size", "2.5", "--defocus", "12000,20000"]


def simulation(name: str, data: Path) -> list[str]:
    """Return what to simulate for a system."""
    adk = [
        str(demo_data(TRAJECTORY)),
        "--topology",
        str(demo_data(TOPOLOGY)),
        "--template",
        str(demo_data(MODEL)),
        *ADK,
    ]
    nsp13, hsp90 = str(data / "nsp13" / "start_desres.pdb"), data / "hsp90"
    modes = ["--modes", "4", "--mixture", "0,4;1"]
    chains = ["--modes", "15", "--chain-rotation", "2.5", "--images", "1200", "--snr-db", "-20", "--seed", "1"]
    return {
        "adk-low": [*adk, "--images", "10", "--dose", "30", "--seed", "6"],
        "nsp13": [nsp13, "--template", nsp13, *ADK[:4], *modes, "--images", "2000", "--dose", "50", "--seed", "5"],
        "hsp90": [str(hsp90 / "closed_2cg9.pdb"), "--template", str(hsp90 / "open_model.pdb"), *chains],
        "adk-1k": [*adk, "--images", "10", "--dose", "50", "--seed", "7"],
        "adk-3k": [*adk, "--images", "30", "--dose", "50", "--seed", "7"],
        "adk-10k": [*adk, "--images", "100", "--dose", "50", "--seed", "7"],
        "adk-30k": [*adk, "--images", "300", "--dose", "50", "--seed", "7"],
    }[name]


def cryomorph(*command: str) -> None:
    """Run the command on one core; what it says is shown only if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cryomorph", *command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"cryomorph {' '.join(command)}\n{done.stderr[-2000:]}")


def files(arguments: argparse.Namespace, system: str) -> tuple[str, str, str]:
    """Return particles, template and truth of a system."""
    if system == "adk":
        folder = arguments.data / "adk"
        return str(folder / "particles.star"), str(folder / "open_4ake.pdb"), str(folder / "particles_truth.npz")
    folder = arguments.out / "data" / system
    return str(folder / "particles.star"), str(folder / "template.cif"), str(folder / "truth.npz")


def simulate(arguments: argparse.Namespace, system: str) -> None:
    """Make the images of a system."""
    if system != "adk" and not (arguments.out / "data" / system / "template.cif").exists():
        cryomorph("simulate", *simulation(system, arguments.data), "--out", str(arguments.out / "data" / system))


def train(arguments: argparse.Namespace, system: str, setting: str, seed: int) -> dict[str, object]:
    """Train and evaluate one run, unless that was done; returns its row."""
    name = f"{system}_{setting}_seed{seed}" + (f"_epochs{arguments.epochs}" if arguments.epochs else "")
    row_file, folder = arguments.out / "rows" / f"{name}.json", arguments.out / "runs" / name
    if row_file.exists():
        done: dict[str, object] = json.loads(row_file.read_text())
        return done
    particles, template, truth = files(arguments, system)
    started = time.monotonic()
    options = ["--out", str(folder), "--seed", str(seed), *SETTINGS[setting]]
    if arguments.epochs:
        options += ["--epochs", str(arguments.epochs)]
    cryomorph("train", particles, "--template", template, *options)
    seconds = time.monotonic() - started
    cryomorph("evaluate", str(folder), "--truth", truth)
    result = json.loads((folder / "evaluation.json").read_text())
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    row = {"system": system, "images": result["images"], "setting": setting, "seed": seed, "seconds": round(seconds, 1)}
    row |= {name: result[name] for name in ("rmsd_mean", "rmsd_constant", "rmsd_template")}
    row |= {name: last[name] for name in ("work", "free")}
    row_file.write_text(json.dumps(row) + "\n")
    print(f"{name:28s} {row['rmsd_mean']:.3f} Å  free {row['free']:.2f} nats  {seconds:.0f} s", flush=True)
    return row


def table(rows: list[dict[str, object]]) -> str:
    """Mean over seeds of error and free likelihood, a line for each system and setting."""
    lines = [f"{'system':10s}{'setting':10s}{'RMSD (Å)':>10s}{'free (nats)':>13s}{'work (nats)':>13s}{'seconds':>9s}"]
    for system, setting in dict.fromkeys((str(row["system"]), str(row["setting"])) for row in rows):
        these = [row for row in rows if (row["system"], row["setting"]) == (system, setting)]
        error, free, work, seconds = (
            sum(float(str(row[name])) for row in these) / len(these)
            for name in ("rmsd_mean", "free", "work", "seconds")
        )
        lines.append(f"{system:10s}{setting:10s}{error:10.3f}{free:13.2f}{work:13.2f}{seconds:9.0f}")
    return "\n".join(lines)


def main() -> None:
    """Simulate, train, evaluate; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with adk, hsp90 and nsp13")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and runs")
    parser.add_argument("--systems", default="adk,adk-low,nsp13,hsp90")
    parser.add_argument("--settings", default=TUNED, help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--epochs", type=int, help="of all runs [default: those of the setting]")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--json", type=Path, help="write one row a run")
    arguments = parser.parse_args()
    for name in ("data", "runs", "rows"):
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
    systems, settings = arguments.systems.split(","), arguments.settings.split(",")
    work = [(system, setting, seed) for seed in range(arguments.seeds) for system in systems for setting in settings]
    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(lambda system: simulate(arguments, system), systems))
        rows = list(pool.map(lambda item: train(arguments, *item), work))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
