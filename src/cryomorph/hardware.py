"""Where to compute: devices and precision."""

import ctypes
import sys
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from pydantic import Field

from cryomorph.components import Settings
from cryomorph.errors import InputError

PATIENCE = timedelta(days=2)
"""How long processes wait for one another: for the first one, while it prepares a large data set, that is hours."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST_KEPT = 2**30  # bytes


class HardwareSettings(Settings):
    """Where to compute; next to no bearing on what is computed."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU if there is one")
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="of the networks; auto: bf16-mixed on a GPU that has it, else 32-true"
    )


def make_fabric(hardware: HardwareSettings) -> Fabric:
    """Return Lightning Fabric for the hardware asked for, not launched yet.

    Fabric itself computes in single precision: its mixed precision would round images, poses and defocus too. The
    networks alone are rounded, see `mixed_precision`.

    Raises
    ------
    InputError
        If more is asked for than there is.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if hardware.accelerator == "cuda" and gpus == 0:
        raise InputError("--accelerator cuda: PyTorch finds no GPU here; use --accelerator cpu or auto")
    on_gpu = gpus > 0 and hardware.accelerator != "cpu"
    if not on_gpu:
        keep_freed_memory()
    if on_gpu and hardware.devices > gpus:
        raise InputError(f"--devices {hardware.devices}: PyTorch finds {gpus} GPUs here; use fewer")
    strategy = DDPStrategy(start_method="popen", timeout=PATIENCE) if hardware.devices > 1 else "auto"
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=hardware.devices,
        strategy=strategy,
        precision="32-true",
        # Processes are started here, on one machine, also inside a job of a cluster's scheduler.
        plugins=LightningEnvironment(),
    )


def mixed_precision(hardware: HardwareSettings, device: torch.device) -> bool:
    """Tell whether the networks compute in bfloat16 on this device."""
    if hardware.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return hardware.precision == "bf16-mixed"


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where the C library is glibc, instead of handing it back at once.

    Steps of training free large arrays and ask for the same ones again; getting them from the system anew, page by
    page, took a third of a step's time.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tune is not None:
        for parameter in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            tune(parameter, LARGEST_KEPT)
