"""Runs small enough for tests, and the comparison of two of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryomorph.run import RunFolder

TIMES = ("seconds", "images_per_second")


def run_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a short run on the images in `folder`; `changes` replace whole sections."""
    return {
        "particles": {"path": str(folder / "particles.star")},
        "template": {"path": str(folder / "template.cif")},
        "decoder": {"kind": "gnn", "latent_dim": 2, "layers": 2},
        "latents": {"kind": "table", "start": 0.1},
        "training": {"epochs": 2, "batch_size": 8},
        "hardware": {"accelerator": "cpu"},
    } | changes


def metrics_without_times(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def assert_same_bits(a: Any, b: Any, place: str = "checkpoint") -> None:
    """Compare nested containers of tensors and numbers, bit by bit."""
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert list(a) == list(b), place
        for key in a:
            assert_same_bits(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_bits(x, y, f"{place}.{number}")
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), place
        assert torch.equal(a, b), place
    else:
        assert a == b, place


def assert_same_run(a: Path, b: Path) -> None:
    """Check that two complete runs end alike: results, everything in the checkpoint, metrics but for the times."""
    assert (a / "latents.npy").read_bytes() == (b / "latents.npy").read_bytes()
    first, second = (RunFolder(run).load_poses() for run in (a, b))
    assert (first is None) == (second is None)
    if first is not None:
        assert_same_bits(*({name: value.tolist() for name, value in vars(found).items()} for found in (first, second)))
    first, second = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (a, b))
    assert_same_bits(first, second)
    assert metrics_without_times(a) == metrics_without_times(b)


def folder_state(folder: Path) -> dict[str, bytes]:
    """Content of all files in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def latents_of(run: Path) -> np.ndarray:
    return np.load(run / "latents.npy", allow_pickle=False)
