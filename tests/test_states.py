import numpy as np
import pytest

from cryomorph.states import count_states


def estimates(true, noise, seed=0):
    generator = np.random.default_rng(seed)
    return true + noise * generator.standard_normal(len(true)), true + noise * generator.standard_normal(len(true))


def two(generator, count=1000, apart=2.0, share=0.5, width=0.0):
    return np.where(generator.random(count) < share, 0.0, apart) + width * generator.standard_normal(count)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.1])
def test_two_states_are_found_with_their_shares(share):
    true = two(np.random.default_rng(1), share=share)
    found = count_states(*estimates(true, 0.5))
    assert found.count == 2
    assert found.separation == pytest.approx(2, rel=0.1)
    assert found.shares[0] == pytest.approx(share, abs=0.04)
    assert found.noise == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    "spread",
    [
        lambda generator: generator.standard_normal(1000),
        lambda generator: generator.uniform(-2, 2, 1000),
        lambda generator: np.zeros(1000),
        lambda generator: generator.exponential(1.0, 1000),
        lambda generator: two(generator, apart=0.8),
    ],
    ids=["normal", "even", "none", "one-sided", "closer than noise tells"],
)
@pytest.mark.parametrize("seed", range(5))
def test_anything_else_is_one_state(spread, seed):
    found = count_states(*estimates(spread(np.random.default_rng(seed)), 0.6, seed + 100))
    assert (found.count, found.separation, found.shares) == (1, 0, (1,))


def test_noise_of_the_estimates_makes_no_clusters_of_a_few_particles():
    for seed in range(50):
        assert count_states(*estimates(np.zeros(60), 1.0, seed)).count == 1


def test_estimates_that_are_all_alike_are_one_state():
    assert count_states(np.zeros(50), np.zeros(50)).count == 1
