import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.errors import InputError
from cryomorph.particles.images import ImageFinder, read_header
from cryomorph.particles.preprocess import background_statistics, fourier_crop, outside_circle
from particle_files import noise, write_stack


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16, np.int8, np.uint16])
def test_every_kind_of_number_is_read(tmp_path, dtype):
    images = (noise(4, 6) * 3).astype(dtype)
    file = read_header(write_stack(tmp_path / "s.mrcs", images, 1.25))
    assert (file.frames, file.box) == (4, 6)
    assert file.pixel_size == pytest.approx(1.25)
    np.testing.assert_array_equal(file.read(np.array([3, 0, 3])), images[[3, 0, 3]].astype(np.float32))


def test_big_endian_and_extended_headers_are_read(tmp_path):
    path = write_stack(tmp_path / "s.mrcs", noise(2, 4))
    raw = bytearray(path.read_bytes())
    raw[92:96] = (80).to_bytes(4, "little")
    little = bytes(raw[:1024]) + bytes(80) + bytes(raw[1024:])
    swapped = np.frombuffer(little[:224], "<i4").astype(">i4").tobytes() + little[224:1104]
    path.write_bytes(swapped + noise(2, 4).astype(">f4").tobytes())
    file = read_header(path)
    assert (file.box, file.offset) == (4, 1104)
    np.testing.assert_array_equal(file.read(np.array([0, 1])), noise(2, 4))


def overwritten(start, value):
    def change(raw):
        raw[start : start + 4] = value.to_bytes(4, "little", signed=True)
        return raw

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], "truncated: its header promises 3 images of 4 pixels, 2 are there"),
        (lambda raw: raw[:1024], "0 are there"),
        (lambda raw: raw[:500], "less than an MRC header"),
        (lambda raw: bytearray(len(raw)), "is not an MRC file"),
        (lambda raw: bytearray(b"text " * 400), "is not an MRC file"),
        (overwritten(0, 8), "8 x 4 pixels, expected square"),
        (overwritten(12, 4), "MRC mode 4"),
        (overwritten(92, -5), "is not an MRC file"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, change, message):
    path = write_stack(tmp_path / "s.mrcs", noise(3, 4))
    path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(InputError, match=message):
        read_header(path)


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=1024, max_size=1100))
def test_arbitrary_headers_raise_only_input_errors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "arbitrary.mrcs"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_header(path)


def test_a_few_images_of_a_huge_file_are_read_at_once(tmp_path):
    box, frames = 256, 8000  # 2 GB of float32, sparse on disk
    path = write_stack(tmp_path / "huge.mrcs", noise(1, box))
    with path.open("r+b") as file:
        file.seek(8)
        file.write(frames.to_bytes(4, "little"))
        file.truncate(1024 + frames * box * box * 4)
    images = read_header(path).read(np.array([frames - 1, 0]))
    np.testing.assert_array_equal(images[1], noise(1, box)[0])
    np.testing.assert_array_equal(images[0], 0)


def test_a_replaced_file_is_read_anew(tmp_path):
    path = write_stack(tmp_path / "s.mrcs", noise(2, 4))
    read_header(path).read(np.array([0]))
    path.unlink()
    write_stack(path, noise(2, 4, seed=1))
    np.testing.assert_array_equal(read_header(path).read(np.array([0, 1])), noise(2, 4, seed=1))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose star file is in a job's folder and whose current folder is elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = tmp_path / "project" / "Refine3D" / "job007"
    job.mkdir(parents=True)
    return tmp_path, job / "particles.star"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("project/Refine3D/job007/a.mrcs", "a.mrcs"),
        ("elsewhere/a.mrcs", "a.mrcs"),
        ("project/Extract/a.mrcs", "Extract/a.mrcs"),
        ("project/Extract/a.mrc", "Extract/a.mrcs"),
        ("project/Extract/a.mrcs", "Extract/a.mrc"),
    ],
)
def test_names_are_found_in_the_project(project, place, name):
    root, star = project
    expected = touch(root / place)
    assert ImageFinder(star, None, "").find(name) == expected


@pytest.mark.parametrize(("place", "name"), [("data/sub/a.mrcs", "sub/a.mrcs"), ("data/a.mrc", "/old/disk/sub/a.mrcs")])
def test_datadir_holds_the_names_or_the_bare_files(project, place, name):
    root, star = project
    expected = touch(root / place)
    touch(star.parent / "sub" / "a.mrcs")
    assert ImageFinder(star, root / "data", "").find(name) == expected


def test_prefix_is_stripped_where_it_is(project):
    root, star = project
    expected = touch(root / "project" / "Extract" / "a.mrcs")
    finder = ImageFinder(star, None, "/old/disk")
    assert finder.find("/old/disk/Extract/a.mrcs") == expected
    assert finder.find("Extract/a.mrcs") == expected
    assert finder.find(str(expected)) == expected


@pytest.mark.parametrize("name", ["a.mrcs", "/nowhere/a.mrc", "a" * 5000 + ".mrcs", "~/a.mrcs"])
def test_a_missing_file_says_where_it_was_looked_for(project, name):
    _, star = project
    with pytest.raises(InputError, match=r"not found \(tried .*--datadir.*--strip-prefix"):
        ImageFinder(star, None, "").find(name)


@pytest.mark.parametrize("name", ["a.hdf", "../../etc/passwd", "folder.mrcs/", "", ".mrcs", "a\0.mrcs", "a\nb.mrcs"])
def test_only_mrc_files_are_opened(project, name):
    root, star = project
    (root / "project" / "folder.mrcs").mkdir()
    with pytest.raises(InputError) as caught:
        ImageFinder(star, None, "").find(name)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cropping_samples_a_band_limited_image_on_the_coarse_grid(data):
    size = data.draw(st.integers(2, 40))
    box = data.draw(st.integers(2, size))
    highest = (box - 1) // 2
    waves = data.draw(
        st.lists(
            st.tuples(*[st.integers(-highest, highest)] * 2, st.floats(0, 6), st.floats(-3, 3)), min_size=1, max_size=5
        )
    )

    def sampled(pixels):
        x = (np.arange(pixels) - pixels // 2) / pixels  # in units of the box, 0 at the origin
        return sum(a * np.cos(2 * np.pi * (kx * x[None, :] + ky * x[:, None]) + phase) for kx, ky, phase, a in waves)

    cropped = fourier_crop(sampled(size)[None].astype(np.float32), box)
    assert cropped.dtype == np.float32
    np.testing.assert_allclose(cropped[0], sampled(box), atol=2e-5)


@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize("box", [4, 5])
def test_cropping_keeps_constants_and_leaves_the_origin_in_place(size, box):
    images = np.full((2, size, size), 7.5, dtype=np.float32)
    images[1] = 0
    images[1, size // 2, size // 2] = 1
    cropped = fourier_crop(images, box)
    np.testing.assert_allclose(cropped[0], 7.5, rtol=1e-6)
    assert np.unravel_index(cropped[1].argmax(), (box, box)) == (box // 2, box // 2)


def test_the_whole_box_is_returned_as_it_is():
    images = noise(2, 8)
    np.testing.assert_array_equal(fourier_crop(images, 8), images)


def test_background_is_what_lies_outside_the_circle():
    outside = outside_circle(5, 1.0)
    expected = np.ones((5, 5), dtype=bool)
    for row, column in [(2, 2), (1, 2), (3, 2), (2, 1), (2, 3)]:
        expected[row, column] = False
    np.testing.assert_array_equal(outside, expected)


def test_statistics_ignore_the_particle_and_flag_bad_images():
    images = noise(4, 32)
    images[0, 12:20, 12:20] += 1000
    images[1] = 3.3
    images[2, 16, 16] = np.nan
    mean, deviation = background_statistics(images, outside_circle(32, 10))
    assert mean[0] == pytest.approx(5, abs=0.3)
    assert deviation[0] == pytest.approx(2, abs=0.3)
    assert deviation[1] == 0
    assert np.isnan(deviation[2])
    assert deviation[3] > 0
