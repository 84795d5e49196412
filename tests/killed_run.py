"""A process that starts runs and has each of them killed at a given point: `killed_run.py CONFIG FOLDER POINT...`.

Points: `batch:N` after N batches, `before-save:N` and `within-save:N` at the N-th checkpoint, `epoch:N` when epoch N is
about to start. Each run is a process of its own, forked after the imports, and ends by SIGKILL in `FOLDER/POINT`.
"""

import io
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import torch

from cryomorph.config import read_config
from cryomorph.progress import Silent
from cryomorph.workflows import train


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesAfter(Silent):
    """Kills the process after so many batches of the training, or at the start of an epoch."""

    def __init__(self, batches: int = -1, epochs: int = -1) -> None:
        self.batches, self.epochs = batches, epochs
        self.training = False

    def start(self, description: str, total: int, unit: str = "images") -> None:
        self.training = description.startswith("epoch")
        self.epochs -= self.training
        if self.epochs == 0:
            die()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.batches -= self.training
        if self.batches == 0:
            die()


def die_at_save(number: int, *, half_written: bool) -> None:
    whole_save = torch.save
    saves = 0

    def save(state: object, file: BinaryIO) -> None:
        nonlocal saves
        saves += 1
        if saves < number:
            whole_save(state, file)
            return
        if half_written:
            buffer = io.BytesIO()
            whole_save(state, buffer)
            file.write(buffer.getvalue()[: buffer.tell() // 2])
            file.flush()
            os.fsync(file.fileno())
        die()

    torch.save = save


def run_until(config: Path, out: Path, point: str) -> None:
    kind, number = point.split(":")
    progress = Silent()
    if kind == "batch":
        progress = DiesAfter(batches=int(number))
    elif kind == "epoch":
        progress = DiesAfter(epochs=int(number))
    else:
        die_at_save(int(number), half_written=kind == "within-save")
    train(read_config(config), out, progress=progress)


def main() -> None:
    config, folder, *points = sys.argv[1:]
    for point in points:
        child = os.fork()
        if child == 0:
            run_until(Path(config), Path(folder) / point, point)
            os._exit(1)  # survived
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{point}: ended with status {status}, not by SIGKILL")


if __name__ == "__main__":
    main()
