"""Every engine on a device where it works: Triton on a GPU where there is one, in its interpreter otherwise."""

import pytest
import torch

ENGINES = ["torch", "numba", "triton"]


def device_of(engine: str) -> torch.device:
    """Return where to test an engine; skips the test if it is not installed."""
    if engine != "triton":
        return torch.device("cpu")
    pytest.importorskip("triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
