"""What sections of the report say, in numbers: known ones in, the same out."""

import base64
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from cryomorph.analysis.result import Motion
from cryomorph.report.certainty import certainty
from cryomorph.report.convergence import convergence
from cryomorph.report.encoding import as_json, packed, packed_bytes, packed_grid, png, rounded
from cryomorph.report.halves import agreement
from cryomorph.report.histograms import histogram
from cryomorph.report.maps import maps, projected
from cryomorph.report.measures import measures
from cryomorph.report.molecule import molecule, ranges, shown_steps, view
from cryomorph.report.orientations import band_columns, defocus, unseen, views
from cryomorph.report.page import page, sections
from cryomorph.report.remarks import remarks
from cryomorph.report.sequence import sequence
from cryomorph.report.shells import shells
from cryomorph.report.summary import key_numbers
from report_cases import (
    AMPLITUDE,
    HALVES,
    analysis_of,
    chain,
    data_of,
    half_arrays,
    metrics,
    rotations,
    source,
    uncertainty,
)

TYPES = {"f4": "<f4", "i2": "<i2", "u1": "u1"}


def unpacked(found):
    values = np.frombuffer(base64.b64decode(found["data"]), TYPES[found["type"]]).reshape(found["shape"])
    return values * found["scale"] if "scale" in found else values


@pytest.fixture(scope="module")
def planted():
    template = chain(40)
    return template, analysis_of(template, 2000)


class TestEncoding:
    def test_floats_come_back_with_nan(self):
        values = np.array([[1.5, np.nan], [-2e9, 0]], np.float32)
        np.testing.assert_array_equal(unpacked(packed(values)), values)

    def test_coordinates_are_within_half_a_hundredth_of_an_angstrom(self):
        x = np.random.default_rng(0).uniform(-300, 300, (5, 7, 3))
        assert np.abs(unpacked(packed_grid(x)) - x).max() <= 0.005 + 1e-9

    def test_a_wider_range_has_a_coarser_grid_and_no_overflow(self):
        x = np.array([-1000.0, 0.0, 1000.0])
        np.testing.assert_allclose(unpacked(packed_grid(x)), x, atol=1000 / 32767)

    def test_bytes(self):
        values = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(unpacked(packed_bytes(values)), values)

    def test_what_is_not_finite_is_null(self):
        assert rounded([1.23456789, np.nan, np.inf]) == [1.2346, None, None]

    def test_json_cannot_leave_its_script(self):
        text = as_json({"name": "</script><!--<script>&\u2028"})
        assert not set(text) & set("<>&\u2028")

    def test_numbers_that_json_lacks_are_refused(self):
        with pytest.raises(ValueError, match="JSON"):
            as_json([float("nan")])

    def test_a_png_says_its_size_and_holds_its_pixels(self):
        image = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
        raw = base64.b64decode(png(image).removeprefix("data:image/png;base64,"))
        assert raw.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", raw[16:24]) == (7, 5)
        size = struct.unpack(">I", raw[33:37])[0]
        lines = np.frombuffer(zlib.decompress(raw[41 : 41 + size]), np.uint8).reshape(5, 8)
        assert (lines[:, 0] == 0).all()
        np.testing.assert_array_equal(lines[:, 1:], image)


class TestHistogram:
    def test_counts_every_finite_value_once(self):
        values = np.random.default_rng(0).standard_normal(5000)
        values[:3] = np.nan
        found = histogram(values)
        assert sum(found["counts"]) == 4997
        assert found["missing"] == 3
        assert len(found["edges"]) == len(found["counts"]) + 1
        assert found["median"] == pytest.approx(np.nanmedian(values), rel=1e-4)

    @pytest.mark.parametrize("values", [np.full(9, 2.0), np.zeros(0), np.full(4, np.nan)])
    def test_nothing_to_spread_over(self, values):
        assert sum(histogram(values)["counts"]) == np.isfinite(values).sum()


def test_convergence_has_the_strength_of_each_epoch():
    found = convergence(metrics(), 30.0)
    assert found["epoch"] == [1, 2, 3, 4, 5, 6]
    assert found["free"] == [4, 5, 6, 7, 8, 9]
    assert found["strength"] == [100, 100, 100, 30, 30, 30]
    assert found["calibrated"] == [3]
    assert "misfit" not in found


def test_shells_say_nothing_where_nothing_was_kept_out():
    calibration = {name: np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]) for name in ("noise", "signal")}
    calibration["frequency"] = np.array([[0, 1, 2, 3.0], [np.nan] * 4]) / 16
    found = shells(calibration, metrics(), 8, np.array([2.0, np.nan]))
    (group,) = found["groups"]  # the other has no particles
    assert group["noise"] == [2, 3, 4]
    assert group["frequency"] == [0.0625, 0.125, 0.1875]
    assert found["explained"]["frequency"] == [0.0625, 0.125, 0.1875]
    rows = metrics()
    rows[-1]["free_shells"] = [0.0, 0.0, 2.0, 0.0]
    assert shells(None, rows, 8, np.array([2.0]))["explained"]["free"] == [None, 2, 0]


class TestViews:
    def test_uniform_directions_are_uniform(self):
        found = views(rotations(60_000))
        density = unpacked(found["density"])
        assert len(density) == sum(found["columns"])
        assert np.average(density) == pytest.approx(1, abs=0.03)
        assert found["empty"] == 0

    def test_a_view_is_the_last_row_of_the_rotation(self):
        """All looked at along x: longitude 0, latitude 0."""
        turned = np.tile(np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), (500, 1, 1))
        found = views(turned)
        density, columns = unpacked(found["density"]), np.array(found["columns"])
        row = int(np.searchsorted(np.cumsum(columns), density.argmax(), side="right"))
        column = density.argmax() - np.cumsum(columns)[row] + columns[row]
        assert (density > 0).sum() == 1
        assert abs(row - (len(columns) - 1) / 2) <= 0.5
        assert abs(column - (columns[row] - 1) / 2) <= 1

    def test_side_views_alone_leave_the_poles_unseen(self):
        rng = np.random.default_rng(0)
        angle = rng.uniform(0, 2 * np.pi, 50_000)
        height = rng.uniform(-0.5, 0.5, 50_000)
        flat = np.sqrt(1 - height**2)
        share = unseen(np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1))
        assert share == pytest.approx(0.5, abs=0.06)  # half of the sphere has |z| > 1/2

    def test_too_few_particles_say_nothing(self):
        assert unseen(rotations(100)[:, 2]) is None

    def test_bins_are_about_equally_large(self):
        columns = band_columns(36)
        areas = np.diff(np.sin(np.linspace(-np.pi / 2, np.pi / 2, 37))) / columns
        assert areas[3:-3].max() / areas[3:-3].min() < 1.1


def test_defocus_is_in_micrometres():
    found = defocus(np.full(10, 15200.0), np.full(10, 14800.0))
    assert found["median"] == 1.5
    assert found["astigmatism"] == 40


class TestMaps:
    def test_conformations_are_where_their_particles_are(self, planted):
        _, analysis = planted
        place = projected(analysis.components, np.stack([state.coordinates for state in analysis.states]))
        rows = [state.particle for state in analysis.states]
        expected = np.stack([analysis.columns["pc1"][rows], analysis.columns["pc2"][rows]], axis=1)
        np.testing.assert_allclose(place, expected, atol=1e-9)

    def test_the_first_is_the_landscape_of_the_analysis(self, planted):
        _, analysis = planted
        found = maps(analysis, [motion.coordinates for motion in analysis.motions])
        assert [each["names"] for each in found] == [["pc1", "pc2"], ["z1", "z2"]]
        first = found[0]
        levels = unpacked(first["energy"])
        energy = analysis.landscape.energy.T
        assert ((levels == 255) == np.isnan(energy)).all()
        seen = levels != 255
        np.testing.assert_allclose(levels[seen] * first["highest"] / 254, np.minimum(energy[seen], 6), atol=0.02)
        np.testing.assert_allclose(np.reshape(first["motions"][0], (-1, 2))[:, 0], analysis.motions[0].place, atol=1e-4)

    def test_elsewhere_steps_are_where_the_nearest_particles_are(self, planted):
        _, analysis = planted
        second = maps(analysis, [motion.coordinates for motion in analysis.motions])[1]
        ends = np.reshape(second["motions"][0], (-1, 2))[[0, -1]]
        np.testing.assert_allclose(ends, [[-AMPLITUDE, 0], [AMPLITUDE, 0]], atol=0.3)

    def test_points_keep_the_states_of_their_particles(self, planted):
        _, analysis = planted
        first = maps(analysis, [])[0]
        points, state = unpacked(first["points"]), unpacked(first["state"])
        assert ((points[:, 0] < 0) == (state == 1)).all()

    def test_columns_with_holes(self, planted):
        template, _ = planted
        analysis = analysis_of(template, 50)
        columns = dict(analysis.columns)
        columns["umap1"] = columns["umap2"] = np.where(np.arange(50) < 10, np.nan, 1.0)
        found = maps(replace(analysis, columns=columns), [])
        assert found[1]["names"] == ["umap1", "umap2"]
        assert found[1]["points"]["shape"] == [40, 2]


class TestMolecule:
    def test_coordinates_and_populations(self, planted):
        template, analysis = planted
        found = molecule(analysis, shown_steps(analysis), template, np.arange(2000) + 50)
        centre = template.coordinates.mean(axis=0)
        for state, expected in zip(found["states"], analysis.states, strict=True):
            np.testing.assert_allclose(unpacked(state["coordinates"]) + centre, expected.coordinates, atol=0.006)
        assert [state["particle"] for state in found["states"]] == [state.particle + 51 for state in analysis.states]
        assert [state["share"] for state in found["states"]] == [0.75, 0.25]
        assert [body["residues"] for body in found["motions"][0]["bodies"]] == ["A 1–20", "A 21–40"]
        np.testing.assert_array_equal(unpacked(found["motions"][0]["body"]), np.repeat([0, 1], 20))

    def test_many_steps_of_many_residues_are_thinned_to_what_there_is_room_for(self):
        template = chain(5000)
        analysis = analysis_of(template, 20, motions=4, steps=50)
        shown = shown_steps(analysis)
        assert sum(motion.coordinates.size for motion in shown) * 2 < 2_100_000
        for motion, whole in zip(shown, analysis.motions, strict=True):
            assert motion.place[0] == whole.place[0]
            assert motion.place[-1] == whole.place[-1]

    def test_one_looks_along_the_direction_in_which_nothing_moves(self, planted):
        template, _ = planted
        x = template.coordinates - template.coordinates.mean(axis=0)
        moved = x + np.array([3.0, 0, 0]) * np.linspace(0, 1, 40)[:, None]
        turn = view(x, [Motion("pc1", np.arange(2.0), np.zeros((2, 1)), np.stack([x, moved]))])
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(turn) == pytest.approx(1)
        assert abs(turn[2, 1]) > 0.99  # along y
        assert abs(turn[0, 2]) > 0.9  # the long axis lies on the screen

    def test_ranges_name_chains_and_stop_at_their_ends(self):
        template = chain(20, ("A", "B"))
        assert ranges(np.array([0, 1, 2, 5, 8, 9, 10, 11]), template) == "A 1–3, 6, 9–10, B 11–12"
        assert ranges(np.array([], dtype=np.int64), template) == ""


def test_measures_that_were_asked_for(planted):
    _, analysis = planted
    assert measures(analysis) == []
    columns = dict(analysis.columns) | {
        "distance_A5_B16": 10 + analysis.columns["pc1"],
        "angle_A1_A2_A3": analysis.columns["pc2"],
    }
    first, second = measures(replace(analysis, columns=columns))
    assert (first["name"], first["unit"]) == ("distance A5 – B16", "Å")
    assert (second["name"], second["unit"]) == ("angle A1 – A2 – A3", "°")
    np.testing.assert_allclose(first["states"], [10 - AMPLITUDE, 10 + AMPLITUDE], atol=0.05)
    assert sum(first["counts"]) == 2000


def test_sequence_says_where_chains_begin_and_are_linked():
    template = chain(12, ("A", "B"))
    found = sequence(template, np.arange(12.0), None)
    assert found["chains"] == [{"name": "A", "start": 0, "stop": 6}, {"name": "B", "start": 6, "stop": 12}]
    assert found["linked"] == "111110111110"
    np.testing.assert_array_equal(unpacked(found["rmsf"]), np.arange(12))
    assert found["uncertainty"] is None


def test_certainty_counts_junk():
    found = certainty(uncertainty(100, 4, junk=7))
    assert found["junk_particles"] == 7
    assert found["junk"]["counts"][0] == 93
    assert found["median_deviation"] == 0.4


def test_halves_have_two_standard_errors_about_squares():
    found = agreement(HALVES, half_arrays())
    np.testing.assert_allclose(unpacked(found["low"]), [np.sqrt(0.5), 0], rtol=1e-6)
    np.testing.assert_allclose(unpacked(found["high"]), np.sqrt([1.5, 0.51]), rtol=1e-6)
    assert found["places"]["median"] == 2


class TestRemarks:
    def said(self, analysis, **changes):
        given = {"posterior": None, "metrics": metrics(), "empty_views": 0.0, "halves": None, "missing": ()} | changes
        return [(remark.level, remark.text) for remark in remarks(analysis, **given)]

    def test_a_good_run_has_no_warning(self, planted):
        said = self.said(planted[1], posterior=uncertainty(2000, 40), halves=agreement(HALVES, half_arrays()))
        assert [level for level, _ in said] == ["good", "good"]

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"metrics": [{"epoch": 1, "free": 10.0}, {"epoch": 2, "free": 9.0}]}, "last epochs fitted noise"),
            ({"metrics": [{"epoch": 1, "free": -1.0}]}, "does not explain"),
            ({"empty_views": 0.4}, "40% of all directions"),
            ({"posterior": uncertainty(2000, 40, junk=500)}, r"500 particles \(25.0%\)"),
            ({"halves": agreement(HALVES | {"motion": {"resolved": False}}, half_arrays())}, "independent halves"),
        ],
    )
    def test_what_is_wrong_comes_first(self, planted, changes, text):
        level, said = self.said(planted[1], **changes)[0]
        assert level == "warning"
        assert re.search(text, said)

    def test_single_particles_less_certain_than_they_differ(self, planted):
        vague = uncertainty(2000, 40)
        vague.deviation *= 20
        assert "more than conformations differ" in self.said(planted[1], posterior=vague)[0][1]

    def test_few_particles(self, planted):
        assert "only 50 particles" in self.said(analysis_of(planted[0], 50))[0][1]


def test_key_numbers(planted):
    template, analysis = planted
    found = {
        card["label"]: card["value"] + card["unit"] for card in key_numbers(analysis, template, None, metrics(), None)
    }
    motion = np.sqrt(analysis.columns["pc1"].var() + analysis.columns["pc2"].var())
    assert found == {
        "particles": "2,000",
        "residues": "40",
        "motion": f"{motion:.2f}Å",
        "states": "2",
        "training": "15s",
    }


def test_what_was_chosen_is_said():
    rows = dict(sections(source())["run"]["rows"])
    assert rows["beads"] == "residue (chosen)"
    assert rows["prior strength"] == "30 (chosen)"
    assert rows["latent prior"] == "1"
    assert rows["directions in use"] == "2 of 8"
    assert "directions in use" not in dict(sections(source(posterior=None))["run"]["rows"])


class TestPage:
    def test_it_carries_its_data_and_nothing_from_elsewhere(self):
        html = page(sections(source()))
        assert data_of(html)["title"] == "projects/run7"
        for start in ("http://", "https://", "//cdn", "@import", "url("):
            assert start not in html.replace("http://www.w3.org/2000/svg", "")
        assert "default-src 'none'" in html

    def test_names_in_files_stay_text(self):
        nasty = "</script><img src=x onerror=alert(1)>{{script}}"
        html = page(sections(source(names=(nasty, "B"))))
        assert nasty not in html
        assert "<img" not in html
        assert data_of(html)["sequence"]["chains"][0]["name"] == nasty

    def test_what_is_not_there_is_left_out(self):
        bare = source(posterior=None, calibration=None, table=None, poses=None, metrics=[], provenance=[])
        found = sections(bare)
        assert [found[name] for name in ("views", "defocus", "certainty", "halves", "examples")] == [None] * 5
        page(found)
