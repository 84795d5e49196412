"""Which epoch's model is kept, when free coefficients are explained worse as training goes on."""

import pytest
import torch
from torch import nn

from cryomorph.stopping import BestEpoch

IMAGES = 200


def model(value):
    network = nn.Linear(1, 1).requires_grad_(False)
    network.weight.fill_(value)
    return network


def course(gains, patience=3, spread=0.2, upto=None):
    """Go through epochs whose free coefficients are explained so well; the model's weight is the epoch."""
    generator = torch.Generator().manual_seed(0)
    images = 10 * torch.randn(IMAGES, generator=generator, dtype=torch.float64)
    best, network = BestEpoch(patience), model(0)
    for epoch, gain in enumerate(gains, start=1):
        network.weight.fill_(epoch)
        noise = spread * torch.randn(IMAGES, generator=generator, dtype=torch.float64)
        if best.see(epoch, images + gain + noise, [network]):
            return best, network, epoch
    return best, network, None


def test_training_goes_on_while_free_coefficients_are_explained_better():
    best, network, ended = course([1, 2, 3, 4, 4, 4, 4.01])
    assert ended is None
    best.restore([network])
    assert float(network.weight) == best.epoch == 7


def test_training_ends_after_some_worse_epochs_and_keeps_the_best():
    best, network, ended = course([1, 2, 3, 2.5, 2.4, 2.3, 9, 9])
    assert ended == 6
    best.restore([network])
    assert float(network.weight) == best.epoch == 3


def test_a_model_that_recovers_is_kept():
    best, network, ended = course([1, 2, 3, 2.5, 2.4, 3.1, 3.2])
    assert ended is None
    best.restore([network])
    assert float(network.weight) == 7


def test_a_slow_decline_is_noticed():
    """No epoch is worse than the one before by more than its error; all together are."""
    best, _, ended = course([3 - 0.01 * k for k in range(40)])
    assert ended is not None
    assert best.epoch < 10


def test_no_patience_means_no_end():
    best, network, ended = course([3, 2, 1, 0, -1], patience=0)
    assert ended is None
    best.restore([network])
    assert float(network.weight) == 5


def test_other_meanings_of_a_nat_are_not_compared():
    best, network, _ = course([5.0, 5.0])
    best.forget()
    assert not best.see(3, torch.zeros(IMAGES, dtype=torch.float64), [network])
    assert best.kept is None
    assert best.epoch == 3


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_it_goes_on_where_it_was(stop_at):
    gains = [1, 3, 2.5, 2.4, 2.3, 2.2]
    whole, network, ended = course(gains)
    generator = torch.Generator().manual_seed(0)
    images = 10 * torch.randn(IMAGES, generator=generator, dtype=torch.float64)
    best, resumed = BestEpoch(3), model(0)
    for epoch, gain in enumerate(gains, start=1):
        resumed.weight.fill_(epoch)
        noise = 0.2 * torch.randn(IMAGES, generator=generator, dtype=torch.float64)
        if best.see(epoch, images + gain + noise, [resumed]):
            break
        if epoch == stop_at:
            state, best = best.state(), BestEpoch(3)
            best.load_state(state, [resumed])
    assert (epoch, best.epoch) == (ended, whole.epoch)
    best.restore([resumed])
    whole.restore([network])
    assert torch.equal(resumed.weight, network.weight)
