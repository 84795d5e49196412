import os
import stat

import pytest

from cryomorph.errors import InputError
from cryomorph.files import atomic_path, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".txt")
        assert temporary.name.startswith(".")
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


def write_half(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_block_that_fails(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(type(error)):
            write_half(tmp_path / name, error)
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
        (tmp_path / "b.txt").write_text("x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes == [0o666 & ~mask] * 2


def test_missing_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "Å")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "Å".encode()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/a\.txt: cannot write there \(.+\); choose another place"):
        write_text(tmp_path / "file" / "a.txt", "y")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            write_text(tmp_path / "a.txt", "y")
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_in_the_way_is_an_input_error(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"a\.txt: cannot write there"):
        write_text(tmp_path / "a.txt", "y")
    assert names(tmp_path) == ["a.txt"]
