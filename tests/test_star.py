import math

import numpy as np
import pytest
from gemmi import cif
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.errors import InputError
from cryomorph.particles.star import read_star
from particle_files import AMPLITUDE, CS, PIXEL, VOLTAGE, Facts, star_text, write_star


@pytest.fixture
def star(tmp_path):
    def write(blocks):
        return write_star(tmp_path / "particles.star", blocks)

    return write


@pytest.mark.parametrize("dialect", ["star30", "star31"])
def test_both_dialects_give_the_facts(star, dialect):
    facts = Facts()
    table = read_star(star(getattr(facts, dialect)()))
    assert table.image_name.tolist() == ["stack.mrcs"] * 5
    np.testing.assert_array_equal(table.frame, facts.frame)
    np.testing.assert_allclose(table.pixel_size, PIXEL)
    np.testing.assert_allclose(table.defocus_u, facts.defocus_u)
    np.testing.assert_allclose(table.defocus_v, facts.defocus_v)
    np.testing.assert_allclose(table.astigmatism_angle, facts.angle * math.pi / 180)
    np.testing.assert_allclose(table.phase_shift, facts.phase * math.pi / 180)
    np.testing.assert_array_equal(table.b_factor, 0)
    np.testing.assert_array_equal(table.voltage, VOLTAGE)
    np.testing.assert_array_equal(table.spherical_aberration, CS)
    np.testing.assert_array_equal(table.amplitude_contrast, AMPLITUDE)
    np.testing.assert_array_equal(table.optics_group, 0)
    np.testing.assert_allclose(table.rotation, facts.rotation)
    np.testing.assert_allclose(table.shift, -facts.origin)
    np.testing.assert_array_equal(table.half_set, facts.half)
    np.testing.assert_array_equal(table.sign, 1)


def test_optics_are_those_of_each_particles_group(star):
    blocks = Facts(count=4).star31()
    optics = blocks["optics"]
    for name in optics:
        optics[name] = optics[name] * 2
    optics["rlnOpticsGroup"] = ["7", "3"]
    optics["rlnVoltage"] = ["200", "300"]
    optics["rlnImagePixelSize"] = ["1.0", "2.0"]
    optics["rlnCtfBfactor"] = ["10", "20"]
    blocks["particles"]["rlnOpticsGroup"] = ["3", "7", "7", "3"]
    table = read_star(star(blocks))
    np.testing.assert_array_equal(table.optics_group, [1, 0, 0, 1])
    np.testing.assert_array_equal(table.voltage, [300, 200, 200, 300])
    np.testing.assert_array_equal(table.pixel_size, [2, 1, 1, 2])
    np.testing.assert_array_equal(table.b_factor, [20, 10, 10, 20])


def test_star30_particles_with_other_optics_form_groups_of_their_own(star):
    blocks = Facts(count=3).star30()
    blocks[""]["rlnVoltage"] = ["300", "200", "300"]
    np.testing.assert_array_equal(read_star(star(blocks)).optics_group, [0, 1, 0])


def test_given_pixel_size_stands_in_and_scales_origins_in_pixels(star):
    blocks = Facts().star30()
    del blocks[""]["rlnMagnification"]
    with pytest.raises(InputError, match="no pixel size"):
        read_star(star(blocks))
    table = read_star(star(blocks), pixel_size=2 * PIXEL)
    np.testing.assert_allclose(table.shift, -2 * Facts().origin)


def test_origins_are_rescaled_by_the_pixel_size_of_their_own_group(star):
    blocks = Facts(count=4).star31()
    blocks["optics"] = {name: values * 2 for name, values in blocks["optics"].items()}
    blocks["optics"]["rlnOpticsGroup"] = ["7", "3"]
    blocks["optics"]["rlnImagePixelSize"] = ["1.0", "2.0"]
    blocks["particles"]["rlnOpticsGroup"] = ["3", "7", "7", "3"]
    factor = np.array([[1.5], [3.0], [3.0], [1.5]])
    np.testing.assert_allclose(read_star(star(blocks), pixel_size=3.0).shift, -factor * Facts(count=4).origin)
    np.testing.assert_allclose(read_star(star(blocks)).shift, -Facts(count=4).origin)


@pytest.mark.parametrize("stored", ["0", "-1.5"])
def test_a_pixel_size_that_is_none_is_refused_without_being_divided_by(star, stored):
    """Warnings are errors in these tests."""
    blocks = Facts().star31()
    blocks["optics"]["rlnImagePixelSize"] = [stored]
    with pytest.raises(InputError, match=rf"rlnImagePixelSize is {stored}, expected"):
        read_star(star(blocks))
    np.testing.assert_allclose(read_star(star(blocks), pixel_size=PIXEL).shift, -Facts().origin)


def test_without_angles_there_is_no_rotation(star):
    blocks = Facts().star31()
    for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset"):
        del blocks["particles"][name]
    table = read_star(star(blocks))
    assert table.rotation is None
    assert table.half_set is None


def test_a_name_without_number_is_the_only_image_of_its_file(star):
    blocks = Facts(count=1).star31()
    blocks["particles"]["rlnImageName"] = ["single.mrc"]
    table = read_star(star(blocks))
    assert table.image_name.tolist() == ["single.mrc"]
    assert table.frame.tolist() == [0]


def without_column(block, name):
    return lambda blocks: blocks[block].pop(name)


def with_value(block, name, value, row=0):
    def change(blocks):
        blocks[block].setdefault(name, ["0"] * len(next(iter(blocks[block].values()))))[row] = value

    return change


def with_column(block, name, values):
    return lambda blocks: blocks[block].__setitem__(name, values)


ERRORS = [
    (without_column("particles", "rlnImageName"), "no rlnImageName"),
    (without_column("particles", "rlnDefocusU"), "missing CTF columns rlnDefocusU"),
    (without_column("optics", "rlnVoltage"), "missing CTF columns rlnVoltage"),
    (without_column("optics", "rlnImagePixelSize"), "no pixel size"),
    (without_column("optics", "rlnOpticsGroup"), "data_optics has no rlnOpticsGroup"),
    (without_column("particles", "rlnAngleTilt"), "has rlnAngleRot, rlnAnglePsi but not rlnAngleTilt"),
    (without_column("particles", "rlnOriginYAngst"), "not rlnOriginYAngst"),
    (with_value("particles", "rlnDefocusV", "abc", 2), "row 3 of the particles table: rlnDefocusV is 'abc'"),
    (with_value("particles", "rlnDefocusV", "nan", 1), "row 2: rlnDefocusV is nan"),
    (with_value("particles", "rlnAngleRot", "inf", 1), "row 2: rlnAngleRot is inf"),
    (with_value("particles", "rlnCtfBfactor", "1e200"), "row 1: rlnCtfBfactor is 1e+200"),
    (with_value("particles", "rlnRandomSubset", "1.5"), "row 1 of the particles table: rlnRandomSubset is 1.5"),
    (with_value("particles", "rlnImageName", "000000@stack.mrcs", 1), "row 2: rlnImageName is '000000@stack.mrcs'"),
    (with_value("particles", "rlnImageName", "''", 1), "row 2: rlnImageName is ''"),
    (with_value("particles", "rlnOpticsGroup", "4", 3), "row 4: rlnOpticsGroup is 4"),
    (with_value("particles", "rlnDefocusU", "250000", 3), "row 4: rlnDefocusU is 250000"),
    (with_value("optics", "rlnVoltage", "300000"), "looks like volts, and rlnVoltage is in kV"),
    (with_value("optics", "rlnVoltage", "0"), "rlnVoltage is 0, expected 10 to 2000 kV; correct it"),
    (with_value("optics", "rlnImagePixelSize", "-1"), "rlnImagePixelSize is -1"),
    (with_value("optics", "rlnImagePixelSize", "0"), "rlnImagePixelSize is 0"),
    (with_value("optics", "rlnImagePixelSize", "150"), "rlnImagePixelSize is 150"),
    (with_value("optics", "rlnSphericalAberration", "2700"), "rlnSphericalAberration is 2700"),
    (with_value("optics", "rlnAmplitudeContrast", "7"), "rlnAmplitudeContrast is 7"),
    (with_value("optics", "rlnImageDimensionality", "3"), "only single-particle"),
    (with_value("optics", "rlnCtfDataAreCtfPremultiplied", "1"), "rlnCtfDataAreCtfPremultiplied is set"),
    (with_column("particles", "rlnTomoName", ["t"] * 5), "rlnTomoName, so it describes tomography"),
    (with_column("particles", "rlnTomoParticleName", ["t"] * 5), "tomography"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_what_is_wrong_is_named(star, change, message):
    blocks = Facts().star31()
    change(blocks)
    path = star(blocks)
    with pytest.raises(InputError) as caught:
        read_star(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_defocus_in_micrometres_is_noticed(star):
    blocks = Facts().star31()
    for name in ("rlnDefocusU", "rlnDefocusV"):
        blocks["particles"][name] = ["1.5"] * 5
    with pytest.raises(InputError, match="look like µm"):
        read_star(star(blocks))


def test_magnification_of_zero_is_refused(star):
    blocks = Facts().star30()
    blocks[""]["rlnMagnification"][1] = "0"
    with pytest.raises(InputError, match="row 2: rlnMagnification is 0"):
        read_star(star(blocks))


def test_an_optics_group_defined_twice_is_refused(star):
    blocks = Facts().star31()
    blocks["optics"] = {name: values * 2 for name, values in blocks["optics"].items()}
    with pytest.raises(InputError, match="defined twice"):
        read_star(star(blocks))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("data_general\n_rlnVersion 5\n", "no table of particles"),
        ("data_general\n_rlnTomoSubTomosAre2DStacks 1\n" + star_text(Facts().star31()), "tomography"),
        (star_text(Facts().star31()).rstrip().rsplit(maxsplit=1)[0], "may be truncated"),
        ("data_particles\nloop_\n_rlnImageName\n_rlnVoltage\n", "no rows"),
        ("data_a\nsave_b\n_x 1\nsave_\n", "save_"),
        ("data_a\nloop_\n_rlnImageName\nü.mrcs\n", "ASCII"),
        (
            star_text(Facts().star31() | {"more": Facts().star31()["particles"]}).replace("data_particles", "data_x"),
            "2 tables",
        ),
    ],
)
def test_files_that_are_no_particle_lists_are_refused(tmp_path, text, message):
    path = tmp_path / "particles.star"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_star(path)


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))))
def test_arbitrary_content_raises_only_input_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "arbitrary.star"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_star(path)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_in_words(tmp_path_factory, data):
    text = star_text(Facts(count=2).star31())
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 40)))
    path = tmp_path_factory.getbasetemp() / "damaged.star"
    path.write_text(text[:start] + data.draw(st.text("0.@_;'#\n adx", max_size=8)) + text[stop:])
    try:
        table = read_star(path)
    except InputError:
        return
    assert len(table.frame) == len(table.defocus_u) > 0


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(cif.quote)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(repr)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 6))
def test_every_value_survives_writing_a_selection(tmp_path_factory, data, count):
    folder = tmp_path_factory.getbasetemp()
    facts = Facts(count=count)
    facts.columns = {
        "rlnComment": data.draw(st.lists(WORDS, min_size=count, max_size=count)),
        "rlnNumber": data.draw(st.lists(FLOATS, min_size=count, max_size=count)),
    }
    blocks = facts.star31() | {"other": {"rlnKept": data.draw(st.lists(WORDS, min_size=1, max_size=4))}}
    source = write_star(folder / "in.star", blocks)
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8)))
    read_star(source).origin.write(folder / "out.star", rows)
    written = cif.read(str(folder / "out.star"))
    assert [block.name for block in written] == ["optics", "particles", "other"]
    for name, columns in blocks.items():
        block = written.find_block(name)
        for column, values in columns.items():
            expected = [values[row] for row in rows] if name == "particles" else values
            assert list(block.find_loop(f"_{column}")) == expected


def test_writing_keeps_pairs_and_the_nameless_block(tmp_path):
    source = tmp_path / "in.star"
    source.write_text("data_general\n_rlnVersion 'a b'\n" + star_text(Facts().star30()))
    read_star(source).origin.write(tmp_path / "out.star", np.array([4, 0]))
    text = (tmp_path / "out.star").read_text()
    assert "_rlnVersion 'a b'\n" in text
    assert "\ndata_\n" in text
    np.testing.assert_array_equal(read_star(tmp_path / "out.star").frame, [4, 0])


def test_a_changed_original_is_not_written_from(star, tmp_path):
    table = read_star(star(Facts().star31()))
    star(Facts(count=4).star31())
    with pytest.raises(InputError, match="has changed"):
        table.origin.write(tmp_path / "out.star", np.array([0]))
    assert not (tmp_path / "out.star").exists()
