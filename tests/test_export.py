from types import SimpleNamespace

import gemmi
import numpy as np
import pytest

from cryomorph.choosing import Choice
from cryomorph.errors import InputError
from cryomorph.export import select_rows, write_conformations


def test_rows_asked_for_keep_their_order():
    assert select_rows(10, np.array([7, 0, 7])).tolist() == [7, 0, 7]


def test_all_rows_if_none_are_asked_for():
    assert select_rows(3, None).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("count", "every", "rows"), [(10, 4, [0, 4, 8]), (3, 1, [0, 1, 2]), (3, 50, [0])])
def test_every_so_many_rows(count, every, rows):
    run = SimpleNamespace(source_index=np.arange(count))
    assert Choice(every=every).rows(run, {}).tolist() == rows


@pytest.mark.parametrize("row", [-1, 10, 10**9])
def test_a_row_that_does_not_exist_is_named(row):
    with pytest.raises(InputError, match=f"row {row} does not exist; the run has 10 particles, from 0"):
        select_rows(10, np.array([3, row]))


def test_no_rows_at_all_are_refused():
    with pytest.raises(InputError, match="--indices"):
        select_rows(10, np.array([], dtype=np.int64))


def test_models_come_in_the_order_they_are_decoded(tmp_path, helix):
    moves = np.arange(5.0)[:, None, None] + helix.coordinates
    batches = [(np.array([3, 4]), moves[[3, 4]].astype(np.float32)), (np.array([0]), moves[[0]])]
    write_conformations(tmp_path / "c.cif", helix, iter(batches), 3)
    structure = gemmi.read_structure(str(tmp_path / "c.cif"))
    found = [[atom.atom.pos.tolist() for atom in model.all()] for model in structure]
    np.testing.assert_allclose(found, moves[[3, 4, 0]], atol=6e-4)


def test_a_file_of_another_kind_is_refused(tmp_path, helix):
    with pytest.raises(InputError, match=r"c\.xyz: .*expected \.cif, \.pdb or \.dcd"):
        write_conformations(tmp_path / "c.xyz", helix, iter([]), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["helix.pdb"]
