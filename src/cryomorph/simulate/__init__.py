"""Images with known truth, from all-atom conformations: those of an ensemble, or of chains that move in each image.

A molecule in ice is a weak phase object: the electrons counted in a pixel are Poisson distributed with the mean
`N (1 - c)`, where `N` is the dose a pixel receives and `c = 2 σ V * h` the contrast, made of the interaction
constant σ, the projected potential V (atoms minus the ice they displace) and the contrast transfer function h. Images
are stored as particle stacks are: protein bright, zero mean far from the molecule, in units of the noise's standard
deviation (`(N - counts) / sqrt(N)`); without noise, as the contrast c itself.

Left out: multiple scattering, the structure of the ice, inelastic scattering, the detector's response. With
`physics: multislice` the first two are there, and the last if its transfer function is given.
"""

from cryomorph.simulate.files import star_document
from cryomorph.simulate.frame import dock, map_frame
from cryomorph.simulate.images import add_noise, contrasts
from cryomorph.simulate.molecules import Molecules
from cryomorph.simulate.morphing import morph
from cryomorph.simulate.motion import MovingDomains, set_in_motion
from cryomorph.simulate.nuisances import Nuisances
from cryomorph.simulate.particles import Particles, ctf_parameters, draw_particles
from cryomorph.simulate.settings import Mixture, Motion, SimulationSettings
from cryomorph.simulate.simulation import simulate
from cryomorph.simulate.split import draw_split

__all__ = [
    "Mixture",
    "Molecules",
    "Motion",
    "MovingDomains",
    "Nuisances",
    "Particles",
    "SimulationSettings",
    "add_noise",
    "contrasts",
    "ctf_parameters",
    "dock",
    "draw_particles",
    "draw_split",
    "map_frame",
    "morph",
    "set_in_motion",
    "simulate",
    "star_document",
]
