"""How poses are found while a run trains: the share of images far off, for each part of the path of conformations.

Used by `unknown_poses.py --history`. A run that looks for poses writes a checkpoint after each epoch; the poses of each
are kept beside the run folder and compared with the truth afterwards. They are as training has them: those that a run
writes in the end are turned to a frame in which the core of all conformations lies on the template's.
"""

import subprocess
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray

from cryomorph.config import component, read_config
from cryomorph.evaluation import FAR_OFF, pose_errors, read_truth, share_off
from cryomorph.run import RunFolder

QUARTERS = ("closed", "second", "third", "open")
"""Of the path, as many images in each."""
POLL = 0.2
"""Seconds between looks at the checkpoint."""


def follow(process: subprocess.Popen[bytes], folder: Path, history: Path) -> None:
    """Keep the poses of every checkpoint of a run until its process ends.

    Parameters
    ----------
    process
        That trains with `poses: search`.
    folder
        Of the run.
    history
        File to write (.npz): `epoch` (e,), `rotation` (e, m, 3, 3), `shift` (e, m, 2); what is there is added to.
    """
    kept = _read(history)
    run, seen, ended = RunFolder(folder), -1, False
    while not ended:
        ended = process.poll() is not None  # one more look after the end
        if run.checkpoint.exists() and (changed := run.checkpoint.stat().st_mtime_ns) != seen:
            seen = changed
            state = run.load_checkpoint()
            if state["batches_done"] == 0:
                kept[int(state["epoch"])] = poses_of(state, run)
        time.sleep(0 if ended else POLL)
    if kept:
        epochs = sorted(kept)
        rotation, shift = (np.stack([kept[epoch][part] for epoch in epochs]) for part in (0, 1))
        np.savez(history, epoch=np.array(epochs), rotation=rotation, shift=shift)


def poses_of(state: dict, run: RunFolder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the corrected poses in a checkpoint: rotation (m, 3, 3) and shift (m, 2) Å."""
    of_poses = {
        name.removeprefix("poses."): value
        for name, value in state["reconstruction"].items()
        if name.startswith("poses.")
    }
    particles = len(of_poses["rotation"])
    source = component("poses", "search")(read_config(run.config).poses, particles)
    source.load_state_dict(of_poses)
    with torch.inference_mode():
        rotation, shift = source.corrections(torch.arange(particles), source.rotation, source.shift)
    return rotation.numpy(), shift.numpy()


def shares(history: Path, folder: Path, truth_file: Path) -> list[dict[str, float]]:
    """Share of images whose rotation is far off, for each quarter of the path, one row an epoch."""
    truth, source_index = read_truth(truth_file), RunFolder(folder).source_index()
    rows = []
    for epoch, (rotation, shift) in sorted(_read(history).items()):
        found = pose_errors(rotation.astype(np.float64), shift.astype(np.float64), truth, source_index)
        if found is None:
            raise SystemExit(f"{truth_file}: has no rotations")
        off = share_off(found.rotation, truth.conformation[source_index], len(QUARTERS))
        rows.append({"epoch": epoch} | dict(zip(QUARTERS, off.tolist(), strict=True)))
    return rows


def print_history(name: str, rows: list[dict[str, float]]) -> None:
    print(f"\n{name}: share of images more than {FAR_OFF:g}° off, for each quarter of the path from closed to open")
    print(f"{'epoch':>6s}" + "".join(f"{quarter:>9s}" for quarter in QUARTERS))
    for row in rows:
        print(f"{row['epoch']:6d}" + "".join(f"{row[quarter]:9.3f}" for quarter in QUARTERS))


def history_figure(runs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw the shares over training, one panel a run."""
    figure, panels = plt.subplots(
        1, len(runs), figsize=(4.2 * len(runs), 3.2), layout="constrained", sharey=True, squeeze=False
    )
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(QUARTERS)))
    for axes, (name, rows) in zip(panels[0], runs.items(), strict=True):
        for quarter, colour in zip(QUARTERS, colours, strict=True):
            axes.plot([row["epoch"] for row in rows], [row[quarter] for row in rows], color=colour, label=quarter)
        axes.set(title=name, xlabel="epoch", ylim=(0, 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].set_ylabel(f"share of images > {FAR_OFF:g}° off")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right", frameon=False, title="quarter of\nthe path")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _read(history: Path) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Poses by epoch; none if there is no such file."""
    if not history.exists():
        return {}
    with np.load(history, allow_pickle=False) as arrays:
        parts = (arrays["epoch"].tolist(), arrays["rotation"], arrays["shift"])
        return {epoch: (rotation, shift) for epoch, rotation, shift in zip(*parts, strict=True)}
