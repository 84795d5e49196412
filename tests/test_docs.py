"""The documents: their Python runs, their commands and settings are accepted, and what they name is there."""

import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import typer
import yaml

import cryomorph
from cryomorph.cli import app
from cryomorph.config import SEAMS, build_latents, build_reconstruction, component, open_particles, parse_config
from cryomorph.reconstruction import Reconstruction
from small_runs import run_settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
WITH_COMMANDS = [ROOT / "README.md", ROOT / "docs" / "tutorial.md"]
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NEW_FILES = dict(re.findall(r"`src/cryomorph/([\w/]+\.py)`:\n\n```python\n(.*?)```", EXTENDING, re.DOTALL))
ADDED = [("decoder", "linear"), ("priors", "radius"), ("poses", "spread"), ("likelihood", "lowpass")]
COMMANDS = typer.main.get_command(app).commands

named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(text, *languages):
    """Contents of the fenced blocks that are marked with one of some languages; "" for those without a mark."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for language, content in fenced if language in languages]


def shell_commands(path):
    """Every `cryomorph` command line in the shell blocks of a document, as words."""
    lines = "".join(blocks(path.read_text(encoding="utf-8"), "bash", "sh", "")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cryomorph ")]


def options_of(command):
    return {name for parameter in COMMANDS[command].params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.fixture
def extended(tmp_path, monkeypatch):
    """The package with the new files of docs/extending.md in it; the package on disk stays as it is."""
    modules = []
    for name, source in NEW_FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")
        package = getattr(cryomorph, file.parent.name)
        assert not (Path(package.__file__).parent / file.name).exists(), f"{name} is no new file any more"
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
        modules.append(f"{package.__name__}.{file.stem}")
    yield
    for module in modules:
        package, _, name = module.rpartition(".")
        if sys.modules.pop(module, None) is not None:
            delattr(sys.modules[package], name)


def contract_module():
    """The contract tests as a module of their own, which sees the parts there are now."""
    spec = importlib.util.spec_from_file_location("contracts", ROOT / "tests" / "contracts" / "test_components.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_seam_but_latents_has_an_example():
    folders = [SEAMS[seam][0].__name__.rpartition(".")[2] for seam, _ in ADDED]
    assert sorted(NEW_FILES) == sorted(f"{folder}/{kind}.py" for folder, (_, kind) in zip(folders, ADDED, strict=True))
    assert {seam for seam, _ in ADDED} == set(SEAMS) - {"latents"}


def test_new_files_are_found_and_meet_the_contracts(extended, dimer):
    contracts = contract_module()
    assert set(ADDED) <= set(contracts.KINDS)
    for seam, kind in ADDED:
        contracts.test_settings_refuse_unknown_fields_and_stand_alone(seam, kind)
    ran = {"decoder": 0, "prior": 0}
    for seam, kind, argument in (("decoder", "linear", "decoder"), ("priors", "radius", "prior")):
        cls = component(seam, kind)
        for name, test in vars(contracts).items():
            wanted = set(inspect.signature(test).parameters) if name.startswith("test_") else set()
            if argument in wanted and wanted <= {argument, "dimer"}:
                torch.manual_seed(0)
                given = {argument: cls(cls.Settings(), dimer), "dimer": dimer}
                test(**{parameter: given[parameter] for parameter in wanted})
                ran[argument] += 1
    assert ran["decoder"] >= 6
    assert ran["prior"] >= 2


def test_new_parts_take_part_in_the_objective(extended, simulated):
    chosen = {"decoder": "linear", "poses": "spread", "likelihood": "lowpass", "priors": {"terms": {"radius": {}}}}
    config = parse_config(run_settings(simulated, **chosen), "docs")
    assert parse_config(yaml.safe_load(config.to_yaml()), "docs") == config
    template = cryomorph.structure.model.read_template(simulated / "template.cif")
    stack = open_particles(config.particles)
    model: Reconstruction = build_reconstruction(config, template, 1, len(stack))
    latents = build_latents(config, model.conformations.latent_blocks(), len(stack))
    batch = stack.batch(torch.arange(5).numpy())
    terms = model(latents(batch), batch)
    assert {name: value.shape for name, value in terms.items()} == dict.fromkeys(("misfit", "geometry", "shared"), (5,))
    sum(terms.values()).sum().backward()
    assert model.conformations.directions.weight.grad.abs().sum() > 0
    assert {type(prior).__name__ for prior in model.priors} >= {"RadiusPrior", "BondsPrior"}


def test_lowpass_example_is_the_direct_likelihood_where_both_see_everything(extended, simulated):
    """All Fourier coefficients of the images lie within the circle of one and within the limit of the other."""
    config = parse_config(run_settings(simulated), "docs")
    batch = open_particles(config.particles).batch(torch.arange(4).numpy())
    template = cryomorph.structure.model.read_template(simulated / "template.cif")
    beads = cryomorph.structure.beads.bead_model(template, "residue")(
        torch.from_numpy(template.coordinates).float().expand(4, -1, -1)
    )
    box = batch.image.shape[-1]
    edge = float(box * batch.pixel_size[0]) / cryomorph.fourier.band(box)
    lowpass, direct = component("likelihood", "lowpass"), component("likelihood", "direct")
    cut = lowpass(lowpass.Settings(resolution=edge * 0.9999), 1).terms(beads, batch.rotation, batch.shift, batch)
    full = direct(direct.Settings(), 1).terms(beads, batch.rotation, batch.shift, batch)
    torch.testing.assert_close(cut, full, rtol=1e-4, atol=1e-2)


def test_snippets_run(extended, dimer):
    snippets = [block for block in blocks(EXTENDING, "python") if block not in NEW_FILES.values()]
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "docs/extending.md", "exec"), {"template": dimer})


@named
def test_settings_in_yaml_are_accepted(document, extended):
    for block in blocks(document.read_text(encoding="utf-8"), "yaml"):
        required = {"particles": {"path": "p.star"}, "template": {"path": "t.cif"}}
        parse_config(required | yaml.safe_load(block), document.name)


@named
def test_files_and_tests_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    for path, function in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)(?:::(\w+))?", text):
        if path.removeprefix("src/cryomorph/") in NEW_FILES:
            continue
        assert (ROOT / path).exists(), path
        if function:
            assert f"\ndef {function}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{function}"


@named
def test_links_between_documents_resolve(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, target


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: path.name)
def test_commands_are_accepted_by_the_command_line(document):
    commands = shell_commands(document)
    assert commands
    for name, *arguments in commands:
        assert name in COMMANDS, f"cryomorph {name}"
        if arguments != ["--help"]:
            COMMANDS[name].make_context(name, arguments)  # parses and checks, runs nothing


@named
def test_options_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    everywhere = {"--help", "--version"}.union(*map(options_of, COMMANDS))
    for code in re.findall(r"`([^`\n]+)`", text):
        command = re.match(r"cryomorph (\w+)", code)
        if command:
            assert command[1] in COMMANDS, code
        known = options_of(command[1]) | {"--help"} if command else everywhere
        if command or code.startswith("--"):
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
                assert option in known, code
