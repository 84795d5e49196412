"""How long and how fast is trained."""

import math

from pydantic import Field

from cryomorph.components import Settings

FIRST_LATENT_COST = 0.05
"""Share of their full price that latents cost at first."""


class TrainingSettings(Settings):
    """Optimisation: Adam, linear warm-up, cosine decay to nearly zero."""

    epochs: int = Field(30, ge=1, description="passes over all images")
    batch_size: int = Field(32, ge=1, description="images a step, in each process")
    learning_rate: float = Field(3e-3, gt=0, description="of what particles share (networks), after the warm-up")
    latent_learning_rate: float = Field(
        0.2, gt=0, description="of latents kept particle by particle; a row is touched once an epoch only"
    )
    warmup_epochs: float = Field(1.0, ge=0, description="epochs over which the learning rates rise from zero")
    final_learning_rate: float = Field(0.01, ge=0, le=1, description="share of the learning rates left at the end")
    latents_free: float = Field(
        0.33, ge=0, le=1, description="share of the epochs in which what latents cost rises to its full weight"
    )
    patience: int = Field(
        5, ge=0, description="epochs in a row that may explain free coefficients worse before training ends; 0: any"
    )
    latent_steps: int = Field(
        3, ge=0, description="Newton steps at most, at the end, to the most probable latents kept particle by particle"
    )
    checkpoint_minutes: float = Field(10.0, gt=0, description="a checkpoint at least so often, besides every epoch's")


def latent_cost_factor(epoch: float, settings: TrainingSettings) -> float:
    """Share that what latents cost counts with at a moment of training: it rises evenly to 1.

    Before a decoder has learned a motion its latents explain nothing. If they cost their full price then, they become
    the prior, and there is nothing left to learn a motion from (posterior collapse; Bowman et al. 2016).

    Parameters
    ----------
    epoch
        Time in epochs, fractions allowed.
    settings
        Lengths.
    """
    rising = settings.latents_free * settings.epochs
    return min(FIRST_LATENT_COST + epoch / rising, 1.0) if rising > 0 else 1.0


def learning_rate_factor(epoch: float, settings: TrainingSettings) -> float:
    """Share of the full learning rates at a moment of training: linear warm-up, then half a cosine.

    Parameters
    ----------
    epoch
        Time in epochs, fractions allowed.
    settings
        Lengths and the final share.
    """
    if epoch < settings.warmup_epochs:
        return epoch / settings.warmup_epochs
    decay = (epoch - settings.warmup_epochs) / max(settings.epochs - settings.warmup_epochs, 1e-9)
    share = 0.5 * (1 + math.cos(math.pi * min(decay, 1.0)))
    return settings.final_learning_rate + (1 - settings.final_learning_rate) * share
