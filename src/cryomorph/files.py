"""Atomic writes: a reader sees the old file or the new one, never half of either. And arrays read with care."""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed onto it when the block ends well and removed when it does not.

    Parameters
    ----------
    path
        The file to be written. The temporary file keeps its suffix, since some writers choose the format by it.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose another place") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_arrays(path: Path, *names: str, optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Read some arrays of an .npz archive, and those of `optional` that are there.

    Raises
    ------
    InputError
        If the file is no such archive, or lacks one of `names`.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
            missing = [name for name in names if name not in present]
            arrays = {}
            for name in present.intersection(names + optional):
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz archive with {' and '.join(names)}") from error
    if missing:
        raise InputError(f"{path}: holds no array {missing[0]}; expected {' and '.join(names)}")
    return arrays


def _replace(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); choose another place") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
