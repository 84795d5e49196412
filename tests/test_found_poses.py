"""Poses that were found, written into particle files and read again."""

import math

import numpy as np
import pytest
from gemmi import cif

from cryomorph.errors import InputError
from cryomorph.geometry import cryosparc_to_matrix, random_rotations, relion_to_matrix
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.stack import ParticleStack, read_table
from particle_files import PIXEL, Facts, noise, without, write_cs, write_stack, write_star

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ANGSTROM, PIXELS = ("rlnOriginXAngst", "rlnOriginYAngst"), ("rlnOriginX", "rlnOriginY")
POSE_FIELDS = ("alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A")
POSE_COLUMNS = {*ANGLES, *ANGSTROM, *PIXELS, *POSE_FIELDS, "cryomorphPoseEntropy", "cryomorph/pose_entropy"}


def found_poses(count, seed=1):
    generator = np.random.default_rng(seed)
    shift = generator.uniform(-20, 20, (count, 2))
    return FoundPoses(random_rotations(count, generator), shift, generator.uniform(0, 3, count))


def star30(facts):
    return facts.star30()


def star31(facts):
    return facts.star31()


def star31_without_poses(facts):
    blocks = facts.star31()
    for name in (*ANGLES, *ANGSTROM):
        del blocks["particles"][name]
    return blocks


def star30_without_poses(facts):
    blocks = facts.star30()
    for name in (*ANGLES, *PIXELS):
        del blocks[""][name]
    return blocks


def star5(facts):
    """With a further table before the others, and priors of the angles, which are no poses."""
    blocks = facts.star31()
    blocks["particles"] |= {"rlnAngleTiltPrior": ["90.000000"] * facts.count}
    return {"general": {"rlnPipeLineJobCounter": ["7"]}} | blocks


def star_with_both_origins(facts):
    blocks = facts.star31()
    blocks["particles"] |= {name: facts.star30()[""][name] for name in PIXELS}
    return blocks


def cs(facts):
    return facts.cs()


def cs_without_poses(facts):
    return without(facts.cs(), *POSE_FIELDS)


def cs_without_alignment_pixels(facts):
    return without(facts.cs(), "alignments3D/psize_A")


def cs_never_aligned(facts):
    """Fields are there, filled with zeros."""
    array = facts.cs()
    for name in POSE_FIELDS:
        array[name] = 0
    return array


DIALECTS = [
    *(star30, star31, star5, star_with_both_origins, star30_without_poses, star31_without_poses),
    *(cs, cs_without_poses, cs_without_alignment_pixels, cs_never_aligned),
]


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.__name__)
def source(request, tmp_path):
    content = request.param(Facts())
    if isinstance(content, dict):
        return write_star(tmp_path / "in.star", content)
    return write_cs(tmp_path / "in.cs", content)


def columns(path):
    """All columns of the particles as they are in the file."""
    if path.suffix == ".cs":
        array = np.load(path, allow_pickle=False)
        return {name: array[name].tolist() for name in array.dtype.names}
    blocks = cif.read(str(path))
    block = blocks.find_block("particles") or blocks[0]
    loop = next(item.loop for item in block if item.loop is not None)
    return {tag[1:]: list(block.find_loop(tag)) for tag in loop.tags}


def degrees_between(a, b):
    return np.rad2deg(2 * np.arcsin(np.linalg.norm(a - b, axis=(1, 2)) / math.sqrt(8)))


@pytest.mark.parametrize("given", [None, 1.1 * PIXEL], ids=["stated", "given"])
def test_poses_come_back_from_every_dialect(source, tmp_path, given):
    """With a pixel size that was given, Å are those of that pixel size, for who gives it again."""
    rows, poses = np.array([3, 0, 3, 1]), found_poses(4)
    out = tmp_path / f"out{source.suffix}"
    read_table(source, pixel_size=given).origin.write(out, rows, poses)
    table = read_table(out, pixel_size=given)
    assert degrees_between(table.rotation, poses.rotation).max() < 1e-5 * (3 if source.suffix == ".cs" else 1)
    np.testing.assert_allclose(table.shift, poses.shift, atol=1e-5)
    np.testing.assert_array_equal(table.frame, rows)
    written = columns(out)
    name = "cryomorph/pose_entropy" if source.suffix == ".cs" else "cryomorphPoseEntropy"
    np.testing.assert_allclose(np.array(written[name], dtype=float), poses.entropy, atol=1e-6)


def test_everything_but_poses_stays_as_it_was(source, tmp_path):
    rows = np.array([4, 2])
    out = tmp_path / f"out{source.suffix}"
    read_table(source).origin.write(out, rows, found_poses(2))
    before, after = columns(source), columns(out)
    kept = [name for name in before if name not in POSE_COLUMNS]
    assert [name for name in after if name not in POSE_COLUMNS] == kept
    assert {name: after[name] for name in kept} == {name: [before[name][row] for row in rows] for name in kept}
    assert set(before) <= set(after)
    if source.suffix == ".star":
        assert [block.name for block in cif.read(str(out))] == [block.name for block in cif.read(str(source))]


def test_a_star_file_keeps_its_unit_of_origins(tmp_path):
    poses = found_poses(5)
    for dialect, here, unit in (
        (star30, {*PIXELS}, PIXEL),
        (star30_without_poses, {*PIXELS}, PIXEL),
        (star31, {*ANGSTROM}, 1),
        (star31_without_poses, {*ANGSTROM}, 1),
        (star_with_both_origins, {*PIXELS, *ANGSTROM}, 1),
    ):
        source = write_star(tmp_path / "in.star", dialect(Facts()))
        read_table(source).origin.write(tmp_path / "out.star", np.arange(5), poses)
        written = columns(tmp_path / "out.star")
        assert here == {*PIXELS, *ANGSTROM} & set(written)
        name = "rlnOriginXAngst" if "rlnOriginXAngst" in here else "rlnOriginX"
        np.testing.assert_allclose(np.array(written[name], float) * unit, -poses.shift[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.array(written["rlnOriginX"], float) * PIXEL, -poses.shift[:, 0], atol=1e-5)


def test_values_are_what_each_program_means_by_them(tmp_path):
    """Written out by hand: RELION's angles in degrees; cryoSPARC's vector, and shifts in pixels of binned images."""
    rotation = relion_to_matrix(np.array([10.0]), np.array([20.0]), np.array([-30.0]))
    poses = FoundPoses(rotation, np.array([[3.0, -6.0]]), np.array([0.25]))
    star, particles = write_star(tmp_path / "in.star", Facts(count=1).star31()), tmp_path / "in.cs"
    read_table(star).origin.write(tmp_path / "out.star", np.array([0]), poses)
    written = columns(tmp_path / "out.star")
    assert [written[name] for name in ANGLES] == [["10.000000"], ["20.000000"], ["-30.000000"]]
    assert [written[name] for name in ANGSTROM] == [["-3.000000"], ["6.000000"]]
    assert written["cryomorphPoseEntropy"] == ["0.250000"]
    read_table(write_cs(particles, Facts(count=1).cs())).origin.write(tmp_path / "out.cs", np.array([0]), poses)
    array = np.load(tmp_path / "out.cs")
    assert {array[name].dtype.str for name in (*POSE_FIELDS, "cryomorph/pose_entropy")} == {"<f4"}
    np.testing.assert_allclose(cryosparc_to_matrix(array["alignments3D/pose"]), rotation, atol=1e-7)
    np.testing.assert_allclose(array["alignments3D/psize_A"], 2 * PIXEL)
    np.testing.assert_allclose(array["alignments3D/shift"], [[-1, 2]])
    np.testing.assert_allclose(array["cryomorph/pose_entropy"], [0.25])


@pytest.mark.parametrize("names", [ANGSTROM, PIXELS], ids=["angstrom", "pixels"])
def test_each_particle_has_the_pixel_size_of_its_optics_group(tmp_path, names):
    blocks = Facts(count=4).star31()
    blocks["optics"] = {name: values * 2 for name, values in blocks["optics"].items()}
    blocks["optics"]["rlnOpticsGroup"] = ["7", "3"]
    blocks["optics"]["rlnImagePixelSize"] = ["1.0", "2.0"]
    blocks["particles"]["rlnOpticsGroup"] = ["3", "7", "7", "3"]
    for old, new in zip(ANGSTROM, names, strict=True):
        blocks["particles"][new] = blocks["particles"].pop(old)
    source, out, poses = write_star(tmp_path / "in.star", blocks), tmp_path / "out.star", found_poses(2)
    for given in (None, 3.0):
        read_table(source, pixel_size=given).origin.write(out, np.array([3, 1]), poses)
        np.testing.assert_allclose(read_table(out, pixel_size=given).shift, poses.shift, atol=1e-5)
    # Who does not say that pixels are of 3 Å takes them to be of 2 and 1 Å, as the file does.
    np.testing.assert_allclose(read_table(out).shift, poses.shift * [[2 / 3], [1 / 3]], atol=1e-5)


def test_rounded_rotations_near_the_poles_are_written_well(tmp_path):
    """In float32 a tilt of 1e-5 degrees drowns in rounding, and with it each of rot and psi alone."""
    tilt = np.array([0.0, 1e-6, 1e-5, 1e-4, 1e-3, 180.0, 180 - 1e-5, 180 - 1e-3])
    exact = relion_to_matrix(np.linspace(-170, 170, 8), tilt, np.linspace(50, -120, 8))
    poses = FoundPoses(exact.astype(np.float32).astype(np.float64), np.zeros((8, 2)), np.zeros(8))
    source = write_star(tmp_path / "in.star", Facts(count=8).star31())
    read_table(source).origin.write(tmp_path / "out.star", np.arange(8), poses)
    assert degrees_between(read_table(tmp_path / "out.star").rotation, exact).max() < 2e-5


def test_poses_of_an_earlier_export_are_replaced(source, tmp_path):
    once, twice = tmp_path / f"once{source.suffix}", tmp_path / f"twice{source.suffix}"
    read_table(source).origin.write(once, np.arange(5), found_poses(5))
    last = found_poses(5, seed=2)
    read_table(once).origin.write(twice, np.arange(5), last)
    assert list(columns(twice)) == list(columns(once))
    np.testing.assert_allclose(read_table(twice).shift, last.shift, atol=1e-5)
    read_table(once).origin.write(twice, np.arange(5))
    assert columns(twice) == columns(once)


def test_fields_of_other_types_can_hold_poses(tmp_path):
    """Doubles stay doubles; whole numbers and halves would round."""
    array = Facts().cs()
    other = {"alignments3D/pose": "<f8", "alignments3D/shift": "<i4", "alignments3D/psize_A": "<f2"}
    array = array.astype(
        [(name, other.get(name, array[name].dtype), array[name].shape[1:]) for name in array.dtype.names]
    )
    poses = found_poses(5)
    read_table(write_cs(tmp_path / "in.cs", array)).origin.write(tmp_path / "out.cs", np.arange(5), poses)
    written = np.load(tmp_path / "out.cs")
    assert written.dtype["alignments3D/pose"].base == np.float64
    table = read_table(tmp_path / "out.cs")
    assert degrees_between(table.rotation, poses.rotation).max() < 1e-5
    np.testing.assert_allclose(table.shift, poses.shift, atol=1e-5)


def test_poses_may_come_with_the_passthrough(tmp_path):
    array = Facts().cs()
    main, further = without(array, *POSE_FIELDS), array[["uid", *POSE_FIELDS]]
    poses = found_poses(2)
    table = read_table(write_cs(tmp_path / "in.cs", main), write_cs(tmp_path / "more.cs", np.array(further[::-1])))
    table.origin.write(tmp_path / "out.cs", np.array([4, 0]), poses)
    np.testing.assert_allclose(read_table(tmp_path / "out.cs").shift, poses.shift, atol=1e-5)


@pytest.mark.parametrize("box", [None, 12])
def test_a_stack_writes_the_poses_of_the_rows_it_writes(tmp_path, box):
    """Poses are those of the stack's particles, in Å, whatever the images were cropped to."""
    write_stack(tmp_path / "stack.mrcs", noise(5, 16))
    source = write_star(tmp_path / "in.star", Facts().star30())
    stack = ParticleStack.open(source, indices=np.array([4, 3, 1]), box=box)
    poses = found_poses(3)
    stack.write(tmp_path / "out.star", np.array([2, 0]), poses)
    table = read_table(tmp_path / "out.star")
    np.testing.assert_array_equal(table.frame, [1, 4])
    np.testing.assert_allclose(table.rotation, poses.rotation[[2, 0]], atol=1e-6)
    np.testing.assert_allclose(table.shift, poses.shift[[2, 0]], atol=1e-5)
    stack.write(tmp_path / "all.star", poses=poses)
    np.testing.assert_allclose(read_table(tmp_path / "all.star").shift, poses.shift, atol=1e-5)
    with pytest.raises(InputError, match="there are 2 poses for 3 particles"):
        stack.write(tmp_path / "wrong.star", poses=found_poses(2))
    assert not (tmp_path / "wrong.star").exists()


def test_numbers_of_particles_stand_beside_them(tmp_path):
    facts = Facts()
    write_stack(tmp_path / facts.name, noise(facts.count, facts.box))
    star, cs = write_star(tmp_path / "p.star", facts.star31()), write_cs(tmp_path / "p.cs", facts.cs())
    rows, measures = np.array([3, 0]), {"junk": np.array([0.25, 1.0]), "two_words": np.array([-2.0, 3.5])}
    read_table(star).origin.write(tmp_path / "out.star", rows, None, measures)
    table = cif.read(str(tmp_path / "out.star")).find_block("particles").find(["_cryomorphJunk", "_cryomorphTwoWords"])
    assert [list(row) for row in table] == [["0.250000", "-2.000000"], ["1.000000", "3.500000"]]
    read_table(cs).origin.write(tmp_path / "out.cs", rows, None, measures)
    array = np.load(tmp_path / "out.cs")
    assert array["cryomorph/junk"].tolist() == [0.25, 1.0]
    assert array["cryomorph/two_words"].tolist() == [-2.0, 3.5]
    assert array.dtype["cryomorph/junk"].str == "<f4"
