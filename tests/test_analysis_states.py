import numpy as np
import pytest

from cryomorph.analysis.states import count_separate, find_centres, find_states, silhouette
from ensembles import flat_ensemble


def blobs(centres, counts, width, seed=0):
    random = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(label)
    return label, (np.array(centres)[label] + width * random.standard_normal((len(label), 3))).astype(np.float32)


@pytest.mark.parametrize("count", [2, "auto"])
def test_two_planted_states_are_found(helix, count):
    label, places = blobs([[-3.0, 0, 0], [3, 0, 0]], (120, 280), 0.5)
    states, number = find_states(flat_ensemble(helix, places), places, count, 0)
    assert [state.population for state in states] == [280, 120]
    np.testing.assert_array_equal(number, np.where(label == 1, 1, 2))


def test_three_separate_states_are_counted(helix):
    label, places = blobs([[-4.0, 0, 0], [4, 0, 0], [0, 6, 0]], (50, 150, 100), 0.6)
    states, number = find_states(flat_ensemble(helix, places), places, "auto", 3)
    assert [state.population for state in states] == [150, 100, 50]
    np.testing.assert_array_equal(number, np.array([3, 1, 2])[label])


def test_the_particle_that_stands_for_a_state_is_nearest_to_its_middle(helix):
    _, places = blobs([[-3.0, 0, 0], [3, 0, 0]], (100, 200), 0.5)
    ensemble = flat_ensemble(helix, places)
    for state in find_states(ensemble, places, 2, 0)[0]:
        middle = places[(places[:, 0] > 0) == (state.number == 1)].mean(0)
        assert state.particle == np.linalg.norm(places - middle, axis=1).argmin()
        np.testing.assert_array_equal(state.latents, ensemble.latents[state.particle])
        np.testing.assert_array_equal(state.coordinates, ensemble.decode(state.latents[None])[0])


@pytest.mark.parametrize("spread", ["line", "normal", "disc"])
def test_what_has_no_gaps_is_cut_into_five(spread):
    random = np.random.default_rng(1)
    if spread == "line":
        places = np.stack([random.uniform(-3, 3, 800), 0.2 * random.standard_normal(800)], axis=1)
    elif spread == "normal":
        places = random.standard_normal((800, 3)) * [3, 1, 0.3]
    else:
        places = random.standard_normal((800, 2))
        places *= (np.sqrt(random.uniform(0, 1, 800)) / np.linalg.norm(places, axis=1))[:, None]
    assert count_separate(places, 0) == 5


def test_same_seed_same_states(helix):
    places = np.random.default_rng(2).standard_normal((500, 3)).astype(np.float32)
    ensemble = flat_ensemble(helix, places)
    first, second = (find_states(ensemble, places, 4, 7) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])
    assert [state.particle for state in first[0]] == [state.particle for state in second[0]]


def test_every_particle_of_many_goes_to_the_nearest_centre(helix, monkeypatch):
    monkeypatch.setattr("cryomorph.analysis.states.SAMPLE", 60)
    label, places = blobs([[-3.0, 0, 0], [3, 0, 0]], (400, 500), 0.5)
    _, number = find_states(flat_ensemble(helix, places), places, 2, 0)
    np.testing.assert_array_equal(number, np.where(label == 1, 1, 2))


def test_no_more_states_than_different_conformations(helix, caplog):
    places = np.repeat(np.array([[-1.0, 0], [1, 0], [2, 0]]), [5, 9, 7], axis=0).astype(np.float32)
    with caplog.at_level("INFO"):
        states, number = find_states(flat_ensemble(helix, places), places, 6, 0)
    assert [state.population for state in states] == [9, 7, 5]
    assert number.tolist() == [3] * 5 + [1] * 9 + [2] * 7
    assert "6 states asked for, 3 found" in caplog.text


def test_one_state_of_particles_that_are_all_alike(helix):
    places = np.zeros((20, 2), dtype=np.float32)
    states, number = find_states(flat_ensemble(helix, places), places, "auto", 0)
    assert [state.population for state in states] == [20]
    assert set(number) == {1}


def test_centres_of_points_on_a_line():
    points = np.array([0.0, 1, 2, 10, 11, 12])[:, None]
    np.testing.assert_allclose(np.sort(find_centres(points, 2, 0)[:, 0]), [1, 11])


def test_silhouette_by_hand():
    points = np.array([0.0, 1, 5])
    distance = np.abs(points[:, None] - points)
    # Of 0: a 1, b 5; of 1: a 1, b 4; the point alone counts nothing.
    assert silhouette(distance, np.array([4, 4, 9])) == pytest.approx((4 / 5 + 3 / 4) / 3)
