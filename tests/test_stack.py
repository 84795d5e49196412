import numpy as np
import pytest
import torch

from cryomorph.errors import InputError
from cryomorph.particles.preprocess import fourier_crop, outside_circle
from cryomorph.particles.stack import ParticleStack
from particle_files import PIXEL, Facts, noise, write_cs, write_stack, write_star


@pytest.fixture
def data(tmp_path):
    """Five particles of 16 pixels as star and cs file."""
    facts = Facts()
    write_stack(tmp_path / "stack.mrcs", noise(5, 16))
    write_star(tmp_path / "p.star", facts.star31())
    write_star(tmp_path / "old.star", facts.star30())
    write_cs(tmp_path / "p.cs", facts.cs())
    return tmp_path


def two_groups(folder, sizes=(16, 12), pixels=("1.5", "2.5")):
    """Four particles, alternating between two files and optics groups; rows run against the order of the frames."""
    blocks = Facts(count=4).star31()
    blocks["optics"] = {name: values * 2 for name, values in blocks["optics"].items()}
    blocks["optics"]["rlnOpticsGroup"] = ["1", "2"]
    blocks["optics"]["rlnImagePixelSize"] = list(pixels)
    blocks["optics"]["rlnImageSize"] = [str(size) for size in sizes]
    blocks["particles"]["rlnOpticsGroup"] = ["1", "2", "1", "2"]
    blocks["particles"]["rlnImageName"] = ["3@a.mrcs", "2@b.mrcs", "1@a.mrcs", "1@b.mrcs"]
    write_stack(folder / "a.mrcs", noise(3, sizes[0], seed=1))
    write_stack(folder / "b.mrcs", noise(2, sizes[1], seed=2))
    return write_star(folder / "two.star", blocks)


@pytest.mark.parametrize("name", ["p.star", "old.star", "p.cs"])
def test_every_format_gives_the_same_batch(data, name):
    facts, rows = Facts(), np.array([4, 0, 2])
    stack = ParticleStack.open(data / name)
    assert (len(stack), stack.box, stack.has_poses) == (5, 16, True)
    assert stack.field_of_view == pytest.approx(16 * PIXEL)
    np.testing.assert_array_equal(stack.source_box, [16])
    batch = stack.batch(rows)
    torch.testing.assert_close(batch.index, torch.tensor([4, 0, 2]))
    np.testing.assert_allclose(batch.rotation, facts.rotation[rows], atol=1e-5)
    np.testing.assert_allclose(batch.shift, -facts.origin[rows], atol=1e-5)
    np.testing.assert_allclose(batch.pixel_size, PIXEL)
    np.testing.assert_allclose(batch.ctf.defocus_u, facts.defocus_u[rows], rtol=1e-6)
    np.testing.assert_allclose(batch.ctf.phase_shift, np.deg2rad(facts.phase[rows]), rtol=1e-5)
    floats = [batch.image, batch.pixel_size, batch.rotation, batch.shift, *vars(batch.ctf).values()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    outside = outside_circle(16, 0.45 * 16)
    raw = noise(5, 16)[rows]
    expected = [(image - image[outside].mean()) / image[outside].std() for image in raw]
    np.testing.assert_allclose(batch.image, expected, rtol=1e-4, atol=1e-5)


def test_images_may_be_left_out_of_a_batch(data):
    assert ParticleStack.open(data / "p.star").batch(np.array([1]), images=False).image is None


@pytest.mark.parametrize("radius", [6.0, 9.0, None])
@pytest.mark.parametrize("box", [None, 9])
def test_background_has_mean_0_and_deviation_1(data, radius, box):
    stack = ParticleStack.open(data / "p.star", background_radius=radius, box=box)
    assert stack.background_radius == pytest.approx(radius or 0.45 * 24)
    outside = outside_circle(stack.box, stack.background_radius / stack.pixel_size[0])
    background = stack.images(np.arange(5))[:, outside]
    np.testing.assert_allclose(background.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(background.std(axis=1), 1, rtol=1e-5)


def test_another_background_radius_replaces_the_first(data):
    stack = ParticleStack.open(data / "p.star")
    other = ParticleStack.open(data / "p.star", background_radius=6.0)
    np.testing.assert_array_equal(stack.with_background_radius(6.0).images(np.arange(5)), other.images(np.arange(5)))
    for radius in (0.0, -3.0, 30.0, float("nan")):
        with pytest.raises(InputError, match="background radius"):
            stack.with_background_radius(radius)


def test_images_in_any_order_are_those_read_one_by_one(tmp_path):
    stack = ParticleStack.open(two_groups(tmp_path), box=10)
    rows = np.array([3, 0, 2, 1, 0])
    together = stack.images(rows)
    for place, row in enumerate(rows):
        np.testing.assert_allclose(together[place], stack.images(np.array([row]))[0], atol=1e-6)
    raw = fourier_crop(noise(3, 16, seed=1)[[2]], 10)[0]
    assert np.corrcoef(together[1].ravel(), raw.ravel())[0, 1] == pytest.approx(1)


def test_groups_of_different_boxes_keep_their_field_of_view(tmp_path):
    path = two_groups(tmp_path)
    with pytest.raises(InputError, match=r"images of 12, 16 pixels; crop them to one size with --box"):
        ParticleStack.open(path)
    stack = ParticleStack.open(path, box=10)
    np.testing.assert_array_equal(stack.source_box, [16, 12])
    np.testing.assert_allclose(stack.pixel_size, [2.4, 3.0, 2.4, 3.0])
    assert stack.field_of_view == pytest.approx(24)
    np.testing.assert_array_equal(stack.batch(np.array([1, 2])).optics_group, [1, 0])


def test_pixel_sizes_of_some_rows_are_those_of_all(tmp_path):
    stack = ParticleStack.open(two_groups(tmp_path), box=10)
    for rows in (np.array([3, 0, 0, 2]), np.array([1]), np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(stack._pixel_sizes(rows), stack.pixel_size[rows])
        np.testing.assert_array_equal(stack.batch(rows, images=False).pixel_size, np.float32(stack.pixel_size[rows]))


@pytest.mark.parametrize("options", [{}, {"first": 2}, {"indices": np.array([4, 1])}])
@pytest.mark.parametrize("name", ["p.star", "p.cs"])
def test_a_subset_knows_how_many_particles_the_file_has(data, name, options):
    assert ParticleStack.open(data / name, **options).source_count == 5


def test_contrast_can_be_inverted(data):
    rows = np.arange(5)
    bright = ParticleStack.open(data / "p.star").images(rows)
    np.testing.assert_array_equal(ParticleStack.open(data / "p.star", invert=True).images(rows), -bright)
    array = Facts().cs()
    array["blob/sign"] = 1
    write_cs(data / "dark.cs", array)
    np.testing.assert_allclose(ParticleStack.open(data / "dark.cs").images(rows), -bright, atol=1e-5)


@pytest.mark.parametrize(("options", "rows"), [({"first": 2}, [0, 1]), ({"indices": np.array([4, 1])}, [4, 1])])
@pytest.mark.parametrize("name", ["p.star", "p.cs"])
def test_subsets_know_their_rows_and_write_them(data, name, options, rows):
    whole, stack = ParticleStack.open(data / name), ParticleStack.open(data / name, **options)
    np.testing.assert_array_equal(stack.source_index, rows)
    np.testing.assert_array_equal(stack.images(np.arange(2)), whole.images(np.array(rows)))
    chosen = stack.select(np.array([1]))
    np.testing.assert_array_equal(chosen.source_index, rows[1:])
    np.testing.assert_array_equal(chosen.images(np.array([0])), whole.images(np.array(rows[1:])))
    out = data / f"out{(data / name).suffix}"
    stack.write(out, np.array([1]))
    written = ParticleStack.open(out)
    np.testing.assert_array_equal(
        written.table.defocus_u, Facts().defocus_u[rows[1:]].astype(np.float32 if out.suffix == ".cs" else float)
    )
    chosen.write(out)
    assert len(ParticleStack.open(out)) == 1


def test_what_cannot_be_written_is_refused(data):
    stack = ParticleStack.open(data / "p.star")
    with pytest.raises(InputError, match=r"give a name that ends in \.star"):
        stack.write(data / "out.cs")
    with pytest.raises(InputError, match="no particles are selected"):
        stack.write(data / "out.star", np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="index 5 is out of range"):
        stack.write(data / "out.star", np.array([5]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 2, "indices": np.array([0])}, "choose one"),
        ({"first": 0}, "choose 1 to 5"),
        ({"first": 6}, "choose 1 to 5"),
        ({"indices": np.array([0, 5])}, "index 5 is out of range"),
        ({"indices": np.array([-1])}, "index -1 is out of range"),
        ({"indices": np.array([2, 1, 2])}, "index 2 is given twice"),
        ({"indices": np.array([], dtype=int)}, "no particles are selected"),
        ({"indices": np.array([0.5])}, "whole numbers"),
        ({"box": 17}, "expected 2 to 16"),
        ({"box": 1}, "expected 2 to 16"),
        ({"pixel_size": -1.0}, "the given pixel size is -1"),
        ({"pixel_size": float("nan")}, "the given pixel size is nan"),
        ({"passthrough": "p.cs"}, "only goes with a cryoSPARC"),
    ],
)
def test_options_that_make_no_sense_are_refused(data, options, message):
    with pytest.raises(InputError, match=message):
        ParticleStack.open(data / "p.star", **options)


@pytest.mark.parametrize("name", ["stack.mrcs", "nothing.star", "p.txt", ""])
def test_other_files_are_refused(data, name):
    with pytest.raises(InputError):
        ParticleStack.open(data / name)


def test_an_image_stack_alone_is_told_to_lack_a_ctf(data):
    with pytest.raises(InputError, match="an image stack alone has no CTF"):
        ParticleStack.open(data / "stack.mrcs")


def test_metadata_and_stack_must_fit(data):
    write_stack(data / "stack.mrcs", noise(4, 16))
    with pytest.raises(InputError, match=r"row 5 wants image 5 of .*, which has 4"):
        ParticleStack.open(data / "p.star")
    assert len(ParticleStack.open(data / "p.star", first=4)) == 4
    write_stack(data / "stack.mrcs", noise(5, 18))
    for name in ("p.star", "p.cs"):
        with pytest.raises(InputError, match=r"row 1 says images are 16 pixels wide, but .* has 18"):
            ParticleStack.open(data / name)


def test_images_of_one_group_must_have_one_size(tmp_path):
    blocks = Facts(count=2).star31()
    del blocks["optics"]["rlnImageSize"]
    blocks["particles"]["rlnImageName"] = ["1@a.mrcs", "1@b.mrcs"]
    write_stack(tmp_path / "a.mrcs", noise(1, 8))
    write_stack(tmp_path / "b.mrcs", noise(1, 10))
    with pytest.raises(InputError, match="one optics group differ in size"):
        ParticleStack.open(write_star(tmp_path / "p.star", blocks), box=8)


def test_truncated_and_missing_stacks_are_found_on_opening(data):
    stack = data / "stack.mrcs"
    stack.write_bytes(stack.read_bytes()[:-1])
    with pytest.raises(InputError, match="is truncated"):
        ParticleStack.open(data / "p.star")
    stack.unlink()
    with pytest.raises(InputError, match="not found"):
        ParticleStack.open(data / "p.star")


def test_datadir_and_prefix_reach_the_finder(data):
    (data / "moved").mkdir()
    (data / "stack.mrcs").rename(data / "moved" / "stack.mrc")
    assert len(ParticleStack.open(data / "p.star", datadir=data / "moved")) == 5
    write_star(data / "q.star", Facts(name="/old/moved/stack.mrcs").star31())
    assert len(ParticleStack.open(data / "q.star", strip_prefix="/old")) == 5


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or inf"), (np.inf, "NaN or inf"), (None, "does not vary")]
)
@pytest.mark.parametrize("box", [None, 10])
def test_a_bad_image_is_named(data, value, message, box):
    stored = np.memmap(data / "stack.mrcs", dtype="<f4", mode="r+", offset=1024, shape=(5, 16, 16))
    if value is None:
        stored[3] = 1000.3
    else:
        stored[3, 8, 8] = value
    stored.flush()
    stack = ParticleStack.open(data / "p.star", box=box)
    with pytest.raises(InputError, match=rf"stack\.mrcs: image 4 .*{message}.*remove row 4"):
        stack.images(np.arange(5)[::-1])


def test_a_header_with_another_pixel_size_and_repeated_images_are_remarked_on(data, caplog):
    write_stack(data / "stack.mrcs", noise(5, 16), pixel_size=3.0)
    blocks = Facts().star31()
    blocks["particles"]["rlnImageName"][1] = blocks["particles"]["rlnImageName"][0]
    with caplog.at_level("INFO"):
        stack = ParticleStack.open(write_star(data / "q.star", blocks))
    assert "the header is ignored" in caplog.text
    assert "1 rows show an image that another row shows too" in caplog.text
    np.testing.assert_allclose(stack.pixel_size, PIXEL)


def test_more_files_than_stay_mapped_are_read(tmp_path):
    blocks = Facts(count=70, box=4).star31()
    blocks["particles"]["rlnImageName"] = [f"{i}.mrcs" for i in range(70)]
    images = noise(70, 4)
    for i in range(70):
        write_stack(tmp_path / f"{i}.mrcs", images[i : i + 1])
    stack = ParticleStack.open(write_star(tmp_path / "p.star", blocks))
    rows = np.random.default_rng(0).permutation(70)
    for _ in range(2):
        read = stack.images(rows)
    outside = outside_circle(4, 0.45 * 4)
    np.testing.assert_allclose(
        read, [(i - i[outside].mean()) / i[outside].std() for i in images[rows]], rtol=1e-3, atol=1e-4
    )
