import numpy as np
import pytest

from cryomorph.analysis.motions import along_component, find_motions, project
from cryomorph.analysis.paths import arc_position, density_path, farthest_path, resample
from ensembles import flat_ensemble, linear_ensemble, surveyed

RADIUS = 5.0


def horseshoe(count=1500, width=0.15, seed=0):
    """Angles in random order, and places near three quarters of a circle in the plane."""
    random = np.random.default_rng(seed)
    angle = random.uniform(-0.75 * np.pi, 0.75 * np.pi, count)
    circle = RADIUS * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return angle, circle + width * random.standard_normal(circle.shape)


def angle_of(places):
    return np.arctan2(places[:, 0], places[:, 1])


def test_the_path_of_a_horseshoe_goes_round_it_in_order():
    _, places = horseshoe()
    path = density_path(places, 20, (5, 95))
    steps = np.diff(angle_of(path))
    assert (steps > 0).all()  # from negative x, where the first component is smallest or nearly, to positive x
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), RADIUS, atol=0.25)
    # 5 % and 95 % of three quarters of a circle.
    assert angle_of(path[[0, -1]]) == pytest.approx(np.array([-0.9, 0.9]) * 0.75 * np.pi, abs=0.12)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.25)


def test_the_path_starts_where_the_first_component_is_smaller():
    _, places = horseshoe()
    assert density_path(places, 10, (5, 95))[0, 0] < 0
    assert density_path(-places, 10, (5, 95))[0, 0] < 0


def test_outliers_are_no_ends_of_the_path():
    _, places = horseshoe(600)
    places = np.vstack([places, [[40, 40], [-40, 10], [0, -60]]])
    path = density_path(places, 20, (5, 95))
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), RADIUS, atol=0.5)


def test_a_path_joins_groups_that_are_apart():
    random = np.random.default_rng(1)
    places = np.vstack([random.standard_normal((200, 3)) * 0.4 + [x, 0, 0] for x in (-10, 0, 10)])
    path = density_path(places, 15, (5, 95))
    assert path[0, 0] == pytest.approx(-10, abs=1)
    assert path[-1, 0] == pytest.approx(10, abs=1)
    assert (np.diff(path[:, 0]) > 0).all()
    assert np.abs(path[:, 1:]).max() < 1


def test_the_path_of_a_line_is_straight():
    random = np.random.default_rng(2)
    places = np.stack([random.uniform(-6, 6, 900), 0.3 * random.standard_normal(900)], axis=1)
    path = density_path(places, 11, (5, 95))
    np.testing.assert_allclose(path[:, 0], np.linspace(-5.4, 5.4, 11), atol=0.35)
    assert np.abs(path[:, 1]).max() < 0.2


def test_particles_that_are_all_alike_have_a_path_too():
    np.testing.assert_array_equal(density_path(np.ones((30, 2)), 4, (5, 95)), np.ones((4, 2)))


def test_the_longest_shortest_path_is_that_between_the_ends():
    points = np.array([[3.0, 0], [0, 0], [4, 0], [1, 0], [2, 0]])
    assert farthest_path(points).tolist() in ([1, 3, 4, 0, 2], [2, 0, 4, 3, 1])


def test_a_curve_is_divided_evenly():
    corner = np.array([[0.0, 0], [3, 0], [3, 1]])
    np.testing.assert_allclose(resample(corner, 5), [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]], atol=1e-12)
    np.testing.assert_allclose(resample(corner, 2, 0.25, 0.5), [[1, 0], [2, 0]], atol=1e-12)
    assert arc_position(corner[:2], np.array([[-1.0, 0], [1.5, 2], [9, 0]])) == pytest.approx([0, 0.5, 1], abs=0.1)


def test_along_a_component_steps_are_equal_and_the_others_where_particles_are():
    _, places = horseshoe()
    targets = along_component(places, 0, 12, (5, 95))
    np.testing.assert_allclose(targets[:, 0], np.linspace(*np.percentile(places[:, 0], (5, 95)), 12))
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), RADIUS, atol=0.6)


def test_along_a_component_with_two_arms_one_arm_is_taken():
    random = np.random.default_rng(3)
    x = random.uniform(-3, 3, 2000)
    arm = np.where(random.uniform(size=2000) < 0.55, 4.0, -4.0)
    places = np.stack([x, arm + 0.2 * random.standard_normal(2000)], axis=1)
    targets = along_component(places, 0, 12, (5, 95))
    np.testing.assert_allclose(targets[:, 1], targets[0, 1], atol=0.8)
    assert abs(targets[0, 1]) > 3


@pytest.fixture(scope="module")
def bent_motion():
    """Latent: an angle and five numbers of noise. Places of conformations: on a horseshoe, exactly."""
    from cryomorph.analysis.ensemble import Ensemble

    random = np.random.default_rng(4)
    n = 30
    template = type("Template", (), {"coordinates": 9 * random.standard_normal((n, 3)), "__len__": lambda self: n})()
    directions, _ = np.linalg.qr(random.standard_normal((3 * n, 2)))
    directions = directions.T.reshape(2, n, 3) * np.sqrt(n)
    angle, _ = horseshoe(3000)
    latents = np.column_stack([angle, random.standard_normal((3000, 5))]).astype(np.float32)

    def decode(z):
        places = RADIUS * np.stack([np.sin(z[:, 0]), np.cos(z[:, 0])], axis=1)
        return (template.coordinates + np.einsum("bk,kni->bni", places, directions)).astype(np.float32)

    ensemble = Ensemble(template, latents, {"shape": slice(0, 6)}, decode)
    found = surveyed(ensemble, 2)
    motions = find_motions(ensemble, found.components, found.places, traversals=2, steps=15, percentiles=(5.0, 95.0))
    return ensemble, found, {motion.name: motion for motion in motions}


def test_conformations_of_every_motion_are_some_that_particles_have(bent_motion):
    ensemble, found, motions = bent_motion
    particles = ensemble.decode(ensemble.latents).reshape(len(ensemble), -1)
    assert list(motions) == ["pc1", "pc2", "path"]
    for motion in motions.values():
        for x in motion.coordinates:
            nearest = np.sqrt(np.square(particles - x.ravel()).sum(1).min() / len(found.rmsf))
            assert nearest < 0.06  # Å; the motion is 10 Å wide, its particles 0.008 Å apart on average


def test_the_path_follows_the_latent_that_makes_the_motion(bent_motion):
    _, _, motions = bent_motion
    path = motions["path"]
    steps = np.diff(path.latents[:, 0])
    assert (steps > 0).all() or (steps < 0).all()
    assert abs(path.latents[-1, 0] - path.latents[0, 0]) > 0.85 * 1.5 * np.pi
    assert np.abs(path.latents[:, 1:]).max() < 1.0  # noise averages out
    np.testing.assert_allclose(path.place, np.linspace(0, 1, 15))


def test_coordinates_are_those_of_the_latents_and_places_those_of_coordinates(bent_motion):
    ensemble, found, motions = bent_motion
    for name, motion in motions.items():
        np.testing.assert_allclose(ensemble.decode(motion.latents), motion.coordinates, atol=1e-4)
        if name != "path":
            component = int(name[2:]) - 1
            places = project(found.components, motion.coordinates)[:, component]
            np.testing.assert_allclose(motion.place, places, atol=1e-6)
    low, high = np.percentile(found.places[:, 0], (5, 95))
    assert motions["pc1"].place[[0, -1]] == pytest.approx([low, high], abs=0.1 * (high - low))
    assert (np.diff(motions["pc1"].place) > 0).all()


def test_an_average_that_leads_astray_gives_way_to_the_nearest_particle(helix):
    # The conformation depends on |z|: an average of latents of both signs is another conformation altogether.
    from cryomorph.analysis.ensemble import Ensemble

    random = np.random.default_rng(5)
    size = np.r_[random.uniform(3, 6, 400)]
    latents = (size * np.where(random.uniform(size=400) < 0.5, -1, 1))[:, None].astype(np.float32)
    base = linear_ensemble(helix, latents, random.standard_normal((1, len(helix), 3)))
    ensemble = Ensemble(helix, latents, base.blocks, lambda z: base.decode(np.abs(z)))
    found = surveyed(ensemble, 2)
    motions = find_motions(ensemble, found.components, found.places, traversals=1, steps=10, percentiles=(5.0, 95.0))
    for motion in motions:
        sizes = np.abs(motion.latents[:, 0])
        assert sizes.min() > 2.9
        assert (np.diff(sizes) > 0).all() or (np.diff(sizes) < 0).all()


def test_components_without_variance_are_not_gone_along(helix, caplog):
    places = np.random.default_rng(6).standard_normal((300, 3)) * [3, 1, 0.05]
    ensemble = flat_ensemble(helix, places)
    found = surveyed(ensemble, 3)
    with caplog.at_level("INFO"):
        motions = find_motions(ensemble, found.components, found.places, traversals=3, steps=5, percentiles=(5.0, 95.0))
    assert [motion.name for motion in motions] == ["pc1", "pc2", "path"]
    assert "less than 1 %" in caplog.text


def test_no_conformation_lies_in_a_gap(helix):
    random = np.random.default_rng(7)
    side = np.where(random.uniform(size=600) < 0.5, -6.0, 6.0)
    places = np.column_stack([side, np.zeros(600)]) + 0.3 * random.standard_normal((600, 2))
    ensemble = flat_ensemble(helix, places)
    found = surveyed(ensemble, 2)
    motions = find_motions(ensemble, found.components, found.places, traversals=1, steps=11, percentiles=(5.0, 95.0))
    for motion in motions:
        assert np.abs(motion.latents[:, 0]).min() > 5  # places are latents here
        assert motion.latents[0, 0] * motion.latents[-1, 0] < 0


def test_noise_averages_out_of_many_steps(helix):
    random = np.random.default_rng(8)
    places = np.column_stack([random.uniform(-5, 5, 400), 0.5 * random.standard_normal(400)])
    ensemble = flat_ensemble(helix, places)
    found = surveyed(ensemble, 2)
    (motion, _) = find_motions(ensemble, found.components, found.places, traversals=1, steps=200, percentiles=(5, 95))
    assert motion.latents[:, 1].std() < 0.25
    in_order = ensemble.decode(ensemble.latents[found.places[:, 0].argsort()])
    apart, step = (np.linalg.norm(np.diff(x, axis=0), axis=-1).mean() for x in (in_order, motion.coordinates))
    assert step < 0.4 * apart
