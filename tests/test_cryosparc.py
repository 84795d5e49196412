import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import recfunctions

from cryomorph.errors import InputError
from cryomorph.particles.cryosparc import read_cryosparc
from cryomorph.particles.star import read_star
from particle_files import PIXEL, Facts, without, write_cs, write_star

COMPARED = [
    *("image_name", "frame", "pixel_size", "image_size", "optics_group", "rotation", "shift", "half_set", "sign"),
    *("defocus_u", "defocus_v", "astigmatism_angle", "voltage", "spherical_aberration", "amplitude_contrast"),
    *("phase_shift", "b_factor"),
]


@pytest.fixture
def cs(tmp_path):
    def write(array, name="particles.cs"):
        return write_cs(tmp_path / name, array)

    return write


def test_cs_and_star_of_the_same_particles_give_the_same_table(cs, tmp_path):
    facts = Facts()
    ours = read_cryosparc(cs(facts.cs()))
    theirs = read_star(write_star(tmp_path / "p.star", facts.star31()))
    for name in COMPARED:
        one, other = getattr(ours, name), getattr(theirs, name)
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_shifts_without_their_own_pixel_size_are_in_stored_pixels(cs):
    facts = Facts()
    table = read_cryosparc(cs(without(facts.cs(), "alignments3D/psize_A")))
    np.testing.assert_allclose(table.shift, -facts.origin / 2, atol=1e-5)


def test_given_pixel_size_scales_the_shifts(cs):
    facts = Facts()
    table = read_cryosparc(cs(facts.cs()), pixel_size=2 * PIXEL)
    np.testing.assert_allclose(table.pixel_size, 2 * PIXEL)
    np.testing.assert_allclose(table.shift, -2 * facts.origin, atol=1e-5)


def test_a_given_pixel_size_means_the_same_in_every_format(cs, tmp_path):
    """Shifts were measured in pixels: Å of a wrong pixel size are as wrong as the pixel size."""
    facts, given = Facts(), 1.1 * PIXEL
    tables = [
        read_star(write_star(tmp_path / "30.star", facts.star30()), pixel_size=given),
        read_star(write_star(tmp_path / "31.star", facts.star31()), pixel_size=given),
        read_cryosparc(cs(facts.cs()), pixel_size=given),
    ]
    for table in tables:
        np.testing.assert_allclose(table.pixel_size, given)
        np.testing.assert_allclose(table.shift, -1.1 * facts.origin, rtol=1e-6, atol=1e-5)


def test_sign_makes_protein_bright(cs):
    array = Facts(count=2).cs()
    array["blob/sign"] = [1, -1]
    np.testing.assert_array_equal(read_cryosparc(cs(array)).sign, [-1, 1])
    np.testing.assert_array_equal(read_cryosparc(cs(without(array, "blob/sign"))).sign, [1, 1])


def test_optional_fields_may_be_missing(cs):
    array = without(
        Facts().cs(),
        "ctf/phase_shift_rad",
        "alignments3D/pose",
        "alignments3D/shift",
        "alignments3D/split",
        "blob/shape",
    )
    table = read_cryosparc(cs(array))
    assert table.rotation is None
    assert table.half_set is None
    for values in (table.phase_shift, table.shift, table.image_size, table.b_factor):
        np.testing.assert_array_equal(values, 0)


def test_groups_follow_the_exposure_groups(cs):
    groups = np.array([4, 9, 4, 9, 4], dtype="<u4")
    array = recfunctions.append_fields(Facts().cs(), "ctf/exp_group_id", groups, usemask=False)
    np.testing.assert_array_equal(read_cryosparc(cs(array)).optics_group, [0, 1, 0, 1, 0])


def split_files(array):
    pose = [name for name in array.dtype.names if name.startswith("alignments3D")]
    main = recfunctions.repack_fields(array[["uid", *pose]])
    return main, without(array, *pose)


def test_passthrough_is_matched_by_uid_whatever_its_order(cs):
    array = Facts().cs()
    main, further = split_files(array)
    shuffled = np.concatenate([further[[3, 1, 4, 0, 2]], further[:1]])
    shuffled["uid"][-1] = 5
    table = read_cryosparc(cs(main), cs(shuffled, "passthrough.cs"))
    whole = read_cryosparc(cs(array, "whole.cs"))
    for name in COMPARED:
        np.testing.assert_array_equal(getattr(table, name), getattr(whole, name), err_msg=name)


def test_writing_keeps_every_field_and_type(cs, tmp_path):
    array = Facts().cs()
    read_cryosparc(cs(array)).origin.write(tmp_path / "out.cs", np.array([3, 0]))
    written = np.load(tmp_path / "out.cs", allow_pickle=False)
    assert written.dtype == array.dtype
    np.testing.assert_array_equal(written, array[[3, 0]])


def test_writing_with_a_passthrough_writes_the_fields_of_both(cs, tmp_path):
    array = Facts().cs()
    main, further = split_files(array)
    table = read_cryosparc(cs(main), cs(further[::-1], "passthrough.cs"))
    table.origin.write(tmp_path / "out.cs", np.array([3, 0]))
    written = np.load(tmp_path / "out.cs", allow_pickle=False)
    assert set(written.dtype.names) == set(array.dtype.names)
    for name in array.dtype.names:
        np.testing.assert_array_equal(written[name], array[name][[3, 0]])
    write_cs(tmp_path / "passthrough.cs", further)
    with pytest.raises(InputError, match=r"passthrough.cs: the file has changed"):
        table.origin.write(tmp_path / "again.cs", np.array([0]))


def with_value(name, value, row=0):
    def change(array):
        array[name][row] = value
        return array

    return change


ERRORS = [
    (lambda a: without(a, "blob/path"), "missing image fields blob/path"),
    (lambda a: without(a, "ctf/df1_A", "ctf/cs_mm"), "missing CTF fields ctf/df1_A, ctf/cs_mm"),
    (lambda a: without(a, "alignments3D/shift"), "has no alignments3D/shift"),
    (lambda a: a[:0], "has no particles"),
    (lambda a: np.zeros(4), "plain array"),
    (with_value("ctf/df1_A", np.nan, 2), "row 3: ctf/df1_A is nan"),
    (with_value("alignments3D/pose", np.inf, 1), "row 2: alignments3D/pose"),
    (with_value("ctf/accel_kv", 300000), "looks like volts, and ctf/accel_kv is in kV"),
    (with_value("blob/psize_A", 0, 1), "row 2: blob/psize_A is 0"),
    (with_value("blob/psize_A", 200, 1), "row 2: blob/psize_A is 200"),
    (with_value("blob/sign", 0.5, 1), "row 2: blob/sign is 0.5"),
    (with_value("blob/shape", (16, 8), 1), "row 2: blob/shape"),
    (with_value("blob/path", b"", 1), "row 2: blob/path is empty"),
    (with_value("blob/path", b"\xff\xfe", 1), "not text"),
    (
        lambda a: recfunctions.repack_fields(
            recfunctions.rename_fields(a, {"ctf/df1_A": "blob/path", "blob/path": "ctf/df1_A"})
        ),
        "ctf/df1_A holds",
    ),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_what_is_wrong_is_named(cs, change, message):
    path = cs(change(Facts().cs()))
    with pytest.raises(InputError) as caught:
        read_cryosparc(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda main, other: (without(main, "uid"), other), "particles.cs: has no uid"),
        (lambda main, other: (main, other[:3]), "has no particle with uid 1000000000000000003"),
        (lambda main, other: (main, other[[0, 1, 2, 3, 4, 4]]), "passthrough.cs: a uid occurs twice"),
    ],
)
def test_a_passthrough_that_does_not_match_is_refused(cs, change, message):
    main, other = change(*split_files(Facts().cs()))
    with pytest.raises(InputError, match=message):
        read_cryosparc(cs(main), cs(other, "passthrough.cs"))


def test_a_signalling_nan_is_named_like_any_other(cs):
    array = Facts().cs()
    array["ctf/df1_A"].view("<u4")[1] = 0x7FA00000
    with pytest.raises(InputError, match="row 2: ctf/df1_A is nan"):
        read_cryosparc(cs(array))


def test_truncated_pickled_and_compressed_files_are_refused(tmp_path, cs):
    path = cs(Facts().cs())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="may be truncated"):
        read_cryosparc(path)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(InputError, match="not a readable"):
        read_cryosparc(tmp_path / "objects.npy")
    path.write_bytes(b"\x94CSDAT" + b"0" * 100)
    with pytest.raises(InputError, match="compressed"):
        read_cryosparc(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_cryosparc(path)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"PK\x03\x04"]))
def test_arbitrary_bytes_raise_only_input_errors(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "arbitrary.cs"
    path.write_bytes(start + content)
    with pytest.raises(InputError):
        read_cryosparc(path)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1200), st.binary(min_size=1, max_size=6))
def test_a_damaged_file_is_read_or_refused_in_words(tmp_path_factory, place, damage):
    path = write_cs(tmp_path_factory.getbasetemp() / "damaged.cs", Facts(count=2).cs())
    content = path.read_bytes()
    path.write_bytes(content[:place] + damage + content[place + len(damage) :])
    try:
        table = read_cryosparc(path)
    except InputError:
        return
    assert len(table.frame) == len(table.defocus_u) > 0
