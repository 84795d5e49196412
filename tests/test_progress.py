from contextlib import closing

import numpy as np
import pytest

from cryomorph.export import write_conformations
from cryomorph.progress import Silent, track


class Told(Silent):
    def __init__(self):
        self.events = []

    def start(self, description, total, unit="images"):
        self.events.append((description, total, unit))

    def advance(self, amount=1, note=""):
        self.events.append(amount)

    def finish(self):
        self.events.append("finish")


class StopError(Exception):
    pass


def breaks():
    yield 1
    raise StopError


def test_every_item_is_reported_once():
    told = Told()
    assert list(track("abc", told, "reading", 3, "files")) == ["a", "b", "c"]
    assert told.events == [("reading", 3, "files"), 1, 1, 1, "finish"]


def test_the_end_is_reported_when_the_items_fail():
    told = Told()
    with pytest.raises(StopError):
        list(track(breaks(), told, "reading", 3))
    assert told.events == [("reading", 3, "items"), 1, "finish"]


def test_the_end_is_reported_when_whoever_iterates_fails():
    told = Told()

    def fails():
        with closing(track("abc", told, "reading", 3)) as items:
            for _ in items:
                raise StopError

    with pytest.raises(StopError):
        fails()
    assert told.events == [("reading", 3, "items"), "finish"]


def test_an_export_that_fails_ends_its_progress_before_the_error_arrives(tmp_path, helix):
    """An error holds on to the frames that it went through, and they to what they iterated over."""
    told = Told()

    def decoded():
        yield np.array([0]), helix.coordinates[None]
        raise StopError

    with pytest.raises(StopError):
        write_conformations(tmp_path / "c.cif", helix, decoded(), 2, told)
    assert told.events == [("writing c.cif", 2, "models"), 1, "finish"]
    assert not (tmp_path / "c.cif").exists()
