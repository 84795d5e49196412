"""Atomic conformations of flexible proteins, one for every particle, from single-particle cryo-EM images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryomorph.opened import OpenedRun, open_run

__version__ = "0.1.0"

__all__ = ["OpenedRun", "__version__", "open_run"]


def __getattr__(name: str) -> Any:
    """Import what opens runs when it is asked for: `import cryomorph` by itself stays quick."""
    if name in ("OpenedRun", "open_run"):
        from cryomorph import opened

        return getattr(opened, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
