"""A particle stack whose particles are those of one batch, for tests that need no files."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from cryomorph.particles.batch import ParticleBatch


class ArrayStack:
    """Looks like a `ParticleStack` to what prepares windows."""

    def __init__(self, batch: ParticleBatch) -> None:
        self.whole = batch
        self.box = batch.image.shape[-1]
        self.background_radius = 1.0
        self.source_box = np.array([self.box])
        self.files = ()
        self.file_index = np.zeros(len(batch), np.int64)
        self.pixel_size = batch.pixel_size.double().numpy()
        optics = {name: value.double().numpy() for name, value in vars(batch.ctf).items()}
        self.table = SimpleNamespace(
            pixel_size=self.pixel_size,
            optics_group=batch.optics_group.numpy(),
            shift=batch.shift.double().numpy(),
            sign=np.ones(len(batch)),
            frame=np.arange(len(batch)),
            **optics,
        )

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, rows: np.ndarray, *, images: bool = True) -> ParticleBatch:
        chosen = torch.from_numpy(np.asarray(rows))
        names = ("index", "pixel_size", "optics_group", "rotation", "shift", "ctf")
        taken = {name: getattr(self.whole, name)[chosen] for name in names}
        return replace(self.whole, image=self.whole.image[chosen] if images else None, **taken)
