"""The configuration of a run: YAML to settings, settings to objects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, field_validator, model_validator

import cryomorph.conformations
import cryomorph.latents
import cryomorph.likelihood
import cryomorph.poses
import cryomorph.priors
from cryomorph.bead_sets import START_BEADS
from cryomorph.calibration import CalibrationSettings
from cryomorph.components import Settings, discover
from cryomorph.conformations.base import ConformationModel
from cryomorph.errors import InputError
from cryomorph.files import write_text
from cryomorph.geometry import superpose
from cryomorph.hardware import HardwareSettings
from cryomorph.latents.base import Latents
from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.stack import ParticleStack
from cryomorph.poses.base import PoseSource
from cryomorph.priors.base import Prior, PriorSettings
from cryomorph.reconstruction import Reconstruction
from cryomorph.schedule import TrainingSettings
from cryomorph.search.joint import SearchSettings
from cryomorph.search.moving import MovingSettings
from cryomorph.selection import FreeSettings
from cryomorph.structure.beads import BeadKind, BeadModel, bead_model
from cryomorph.structure.frame import place_template
from cryomorph.structure.model import Template, read_template
from cryomorph.structure.scatterers import Scatterers, ScatteringSettings, scatterers
from cryomorph.trials import LATENT_PRIOR, START, TrialSettings

SEAMS: dict[str, tuple[ModuleType, type[Any]]] = {
    "decoder": (cryomorph.conformations, ConformationModel),
    "latents": (cryomorph.latents, Latents),
    "poses": (cryomorph.poses, PoseSource),
    "likelihood": (cryomorph.likelihood, Likelihood),
    "priors": (cryomorph.priors, Prior),
}

S = TypeVar("S", bound=Settings)

DEFAULT_KINDS = {"decoder": "gnn", "latents": "variational", "poses": "known", "likelihood": "matched_filter"}


def component(seam: str, kind: str) -> type[Any]:
    """Return the class of one kind, e.g. `component("decoder", "gnn")`.

    Raises
    ------
    ValueError
        If there is no such kind; the message lists those there are.
    """
    kinds = discover(*SEAMS[seam])
    if kind not in kinds:
        raise ValueError(f"{seam}: unknown kind {kind!r}; there are {', '.join(kinds)}")
    return kinds[kind]


def _component_settings(seam: str, value: Any, default_kind: str) -> Any:
    """Turn `gnn` or `{kind: gnn, layers: 8}` into the settings of that kind."""
    if isinstance(value, Settings):
        return value
    fields = {"kind": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping):
        raise ValueError(f"{seam}: expected a kind, one of {', '.join(discover(*SEAMS[seam]))}, or a mapping with one")
    kind = str(fields.get("kind", default_kind))
    return component(seam, kind).Settings.model_validate({"kind": kind} | dict(fields))


class ParticlesConfig(Settings):
    """Which particles, and where their images are."""

    path: Path = Field(description="RELION .star or cryoSPARC .cs")
    datadir: Path | None = Field(None, description="folder that image paths are relative to")
    strip_prefix: str = Field("", description="leading part of image paths to drop")
    passthrough: Path | None = Field(None, description="cryoSPARC passthrough .cs file with the remaining fields")
    box: int | None = Field(None, ge=16, description="Fourier-crop images to this many pixels")
    first: int | None = Field(None, ge=1, description="only the first N particles")
    indices: Path | None = Field(None, description="rows to use, from 0: .npy, or text with one number a line")
    pixel_size: float | None = Field(None, gt=0, description="Å; overrides the file's")
    invert: bool = Field(False, description="flip the contrast, for images with dark protein")

    def files(self) -> list[Path]:
        """Return the files that describe the particles."""
        return [path for path in (self.path, self.passthrough) if path is not None]


class TemplateConfig(Settings):
    """The atomic model that is deformed."""

    path: Path = Field(description="PDB or mmCIF")
    chains: tuple[str, ...] | None = Field(None, description="only these chains")
    frame: Literal["auto", "centre", "corner"] = Field("auto", description="origin of the consensus map")


PAPER_PRIORS = ("centre", "bonds", "log_distance")


def _number_or_auto(value: Any) -> float | str:
    """Take `auto`, or a number of at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if value != "auto" and not 0 <= number < float("inf"):
        raise ValueError(f"expected auto or a number of at least 0, found {value!r}")
    return "auto" if value == "auto" else number


NumberOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_number_or_auto)]


class PriorsConfig(Settings):
    """Geometric priors; by default paper A's, with its weights, times one overall strength."""

    strength: NumberOrAuto = Field(
        "auto", description="nats per unit of paper A's weighted sum; auto: chosen by coefficients kept out of the fit"
    )
    common: float | None = Field(
        None,
        ge=0,
        description="strength, paid once, by which what all conformations share is kept like the template; null: each "
        "of them is compared with the template, as in paper A",
    )
    terms: dict[str, SerializeAsAny[PriorSettings]] = Field(default_factory=dict, validate_default=True)

    @field_validator("terms", mode="before")
    @classmethod
    def _find_terms(cls, value: Any) -> Any:
        """Fill in the priors that are not mentioned; a weight of 0 leaves one out."""
        if not isinstance(value, Mapping):
            raise ValueError("expected a mapping such as {log_distance: {weight: 0.01}}")
        named = {kind: {} for kind in PAPER_PRIORS} | dict(value)
        return {kind: _component_settings("priors", fields, kind) for kind, fields in named.items()}


class RunConfig(Settings):
    """Everything that determines a run."""

    particles: ParticlesConfig
    template: TemplateConfig
    decoder: SerializeAsAny[Settings]
    latents: SerializeAsAny[Settings]
    poses: SerializeAsAny[Settings]
    likelihood: SerializeAsAny[Settings]
    beads: Literal["auto", "ca", "residue", "atom"] = Field(
        "auto", description="what stands for the molecule; auto: chosen by coefficients kept out of the fit"
    )
    scattering: ScatteringSettings = Field(default_factory=ScatteringSettings)
    latent_prior: NumberOrAuto = Field(
        "auto", description="what a nat of the latents' prior counts; auto: chosen by coefficients kept out of the fit"
    )
    priors: PriorsConfig = Field(default_factory=PriorsConfig)
    search: SearchSettings = Field(default_factory=SearchSettings)
    moving: MovingSettings = Field(default_factory=MovingSettings)
    calibration: CalibrationSettings = Field(default_factory=CalibrationSettings)
    free: FreeSettings = Field(default_factory=FreeSettings)
    trials: TrialSettings = Field(default_factory=TrialSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    start_from: Path | None = Field(None, description="run on the same particles whose model and latents are the start")
    infer_from: Path | None = Field(None, description="run whose model is taken as it is: latents alone are found")
    hardware: HardwareSettings = Field(default_factory=HardwareSettings)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _find_components(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        chosen = {seam: _component_settings(seam, data.get(seam, kind), kind) for seam, kind in DEFAULT_KINDS.items()}
        return dict(data) | chosen

    @model_validator(mode="after")
    def _begins_in_one_place(self) -> "RunConfig":
        if self.start_from is not None and self.infer_from is not None:
            raise ValueError("start_from and infer_from exclude each other: leave one out")
        return self

    @model_validator(mode="after")
    def _search_has_latents_to_place(self) -> "RunConfig":
        latents = _kind(self.latents)
        if component("poses", _kind(self.poses)).searched and not component("latents", latents).per_particle:
            own = [kind for kind, found in discover(*SEAMS["latents"]).items() if found.per_particle]
            raise ValueError(
                f"poses: {_kind(self.poses)} places the latents of each particle, and latents: {latents} are shared by "
                f"all; choose latents: {' or '.join(own)}"
            )
        return self

    @model_validator(mode="after")
    def _amplitudes_can_be_judged(self) -> "RunConfig":
        if self.scattering.active and (self.free.share == 0 or self.calibration.shells == "none"):
            raise ValueError("scattering: free coefficients of calibrated shells judge what is found; leave both on")
        return self

    def resolved(self) -> "RunConfig":
        """Return a copy that does not depend on the working folder."""
        particles = {name: value.absolute() for name, value in dict(self.particles).items() if isinstance(value, Path)}
        return self.model_copy(
            update={
                "particles": self.particles.model_copy(update=particles),
                "template": self.template.model_copy(update={"path": self.template.path.absolute()}),
                "search": self.search.model_copy(update={"models": tuple(m.absolute() for m in self.search.models)}),
                "start_from": None if self.start_from is None else self.start_from.absolute(),
                "infer_from": None if self.infer_from is None else self.infer_from.absolute(),
            }
        )

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `read_config` understands."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def write(self, path: Path) -> None:
        """Write the configuration as YAML, atomically."""
        write_text(path, self.to_yaml())


def parse_settings(settings: type[S], data: Mapping[str, Any], source: str) -> S:
    """Validate settings.

    Parameters
    ----------
    settings
        Their class.
    data
        Nested mappings as read from YAML.
    source
        Named in errors.

    Raises
    ------
    InputError
        Naming the first field that is unknown, missing or out of range.
    """
    try:
        return settings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        parts = (str(part) for part in first["loc"])
        field = ".".join(part if part.isprintable() else repr(part) for part in parts) or "settings"
        message = first["msg"].removeprefix("Value error, ").splitlines()[0]
        if first["type"] == "extra_forbidden":
            message = "there is no such setting; see --help and docs/tutorial.md for those there are"
        known = ("missing", "value_error", "extra_forbidden")
        found = f", found {first['input']!r}" if first["type"] not in known else ""
        raise InputError(f"{source}: {field}: {message}{found}") from error


def parse_config(data: Mapping[str, Any], source: str) -> RunConfig:
    """Validate a configuration; see `parse_settings`."""
    return parse_settings(RunConfig, data, source)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    InputError
        If it can't be read or is something else.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"{path}: not a readable YAML file ({reason})") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of settings such as 'training: {{epochs: 40}}'")
    return data


def read_config(path: Path) -> RunConfig:
    """Read and validate a configuration file."""
    return parse_config(read_yaml(path), str(path))


def read_indices(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Read row numbers (from 0) from a .npy file or a text file.

    Raises
    ------
    InputError
        If they are not whole numbers in one dimension.
    """
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _numbers(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not readable as row numbers, one a line or a .npy array") from error
    rows = np.asarray(values)
    if rows.ndim != 1 or rows.dtype.kind not in "iuf" or not np.all((rows == np.rint(rows)) & (np.abs(rows) < 2**53)):
        raise InputError(f"{path}: row numbers must be whole numbers, one a line or a 1-D .npy array")
    if len(rows) == 0:
        raise InputError(f"{path}: has no row numbers; give at least one")
    return rows.astype(np.int64)


def _numbers(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Read a number from each line of a text file; what follows a # is a comment."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return np.array([float(line) for line in lines if line])


def open_particles(config: ParticlesConfig) -> ParticleStack:
    """Open the particles of a configuration."""
    return ParticleStack.open(
        config.path,
        datadir=config.datadir,
        strip_prefix=config.strip_prefix,
        passthrough=config.passthrough,
        box=config.box,
        first=config.first,
        indices=None if config.indices is None else read_indices(config.indices),
        pixel_size=config.pixel_size,
        invert=config.invert,
    )


def open_template(config: TemplateConfig, stack: ParticleStack) -> tuple[Template, str]:
    """Read the template and put it into the frame of the map; the second value says how, in a line."""
    template = read_template(config.path, config.chains)
    # The map is in the box that the images had before any cropping.
    source_box = stack.source_box[stack.table.optics_group]
    smallest = int(np.argmin(source_box * stack.table.pixel_size))
    return place_template(template, int(source_box[smallest]), float(stack.table.pixel_size[smallest]), config.frame)


def build_reconstruction(
    config: RunConfig, template: Template, groups: int, particles: int, beads: BeadKind | None = None
) -> Reconstruction:
    """Return the untrained model of a configuration.

    Parameters
    ----------
    config
        Its settings.
    template
        In the map frame.
    groups, particles
        Number of optics groups, and of particles.
    beads
        Those that were chosen before, if there is a choice.
    """
    kind = (beads or START_BEADS) if config.beads == "auto" else config.beads
    priors = [component("priors", _kind(s))(s, template) for s in config.priors.terms.values()]
    return Reconstruction(
        conformations=component("decoder", _kind(config.decoder))(config.decoder, template),
        beads=_beads(config, template, kind),
        poses=component("poses", _kind(config.poses))(config.poses, particles),
        likelihood=component("likelihood", _kind(config.likelihood))(config.likelihood, groups),
        priors=priors,
        strength=START if config.priors.strength == "auto" else config.priors.strength,
        latent_prior=LATENT_PRIOR if config.latent_prior == "auto" else config.latent_prior,
        common=config.priors.common,
        particles=particles,
    )


def _beads(config: RunConfig, template: Template, kind: BeadKind) -> BeadModel | Scatterers:
    molecule = bead_model(template, kind, config.scattering.freedom)
    return scatterers(molecule, template.coordinates, config.scattering) if config.scattering.active else molecule


def needs_poses(config: RunConfig) -> bool:
    """Tell whether the particles of a configuration must come with poses."""
    return bool(component("poses", _kind(config.poses)).needs_poses)


def open_models(paths: Sequence[Path], template: Template) -> NDArray[np.float64]:
    """Read models of the template's residues and superpose them on it; coordinates (k, n, 3) in Å.

    Raises
    ------
    InputError
        If one has other residues.
    """
    placed = np.empty((len(paths), len(template), 3))
    for number, path in enumerate(paths):
        model = read_template(path)
        if len(model) != len(template):
            raise InputError(
                f"{path}: has {len(model)} residues, the template {len(template)}: models of --library must be of the "
                "same residues"
            )
        for row, (found, expected) in enumerate(zip(model.residue_names, template.residue_names, strict=True)):
            if found != expected:
                raise InputError(
                    f"{path}: residue {model.residue_ids[row]} is {found}, the template's "
                    f"{template.residue_ids[row]} is {expected}: models of --library must be of the same residues"
                )
        rotation, translation = superpose(model.coordinates, template.coordinates)
        placed[number] = model.coordinates @ rotation.T + translation
    return placed


def build_latents(config: RunConfig, blocks: Mapping[str, slice], particles: int) -> Latents:
    """Return the untrained latents of a configuration, for its decoder's blocks of latents and so many particles."""
    latents: Latents = component("latents", _kind(config.latents))(config.latents, blocks, particles)
    return latents


def _kind(settings: Any) -> str:
    return str(settings.kind)
