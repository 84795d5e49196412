"""Progress as a seam: the library reports, the command line draws."""

from collections.abc import Generator, Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What a long loop tells whoever watches it."""

    def start(self, description: str, total: int, unit: str = "images") -> None:
        """Begin a stretch of `total` units of work."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more units are done; `note` is a short remark such as the current loss."""

    def finish(self) -> None:
        """End the stretch."""


class Silent:
    """A `Progress` that says nothing; the default of the Python API."""

    def start(self, description: str, total: int, unit: str = "images") -> None:
        """Ignore."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""


def track(
    items: Iterable[T], progress: Progress, description: str, total: int, unit: str = "items"
) -> Generator[T, None, None]:
    """Iterate over `items`, reporting one unit of progress for each; whoever may stop early closes it."""
    progress.start(description, total, unit)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.finish()
