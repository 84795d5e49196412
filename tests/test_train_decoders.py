"""`cryomorph train` with the decoders of a given form: options, what is refused, and whole runs."""

import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest

from command_line import refused
from conftest import helix_model
from cryomorph.config import component, parse_config, read_config
from cryomorph.results import FittedRun, evaluate
from cryomorph.workflows import train
from small_runs import assert_same_run, latents_of, run_settings

GROUPS = "A:1-12,A:13-24"
"""Halves of the helix in `simulated`."""


@pytest.fixture
def decoder(resolved, simulated):
    """The decoder that the command line arrives at, without training."""

    def call(*arguments):
        return resolved(simulated / "particles.star", "--template", simulated / "template.cif", *arguments).decoder

    return call


def settings_of(kind, **settings):
    return component("decoder", kind).Settings(**settings)


def test_options_reach_the_decoder(decoder):
    assert decoder("--decoder", "nma", "--modes", 7) == settings_of("nma", modes=7)
    assert decoder("--decoder", "chains", "--modes", 0) == settings_of("chains", modes=0)
    given = ["--modes", 5, "--rigid", "rotation", "--groups", GROUPS]
    assert decoder("--decoder", "chains", *given) == settings_of("chains", modes=5, rigid="rotation", groups=GROUPS)
    assert decoder("--decoder", "mlp", "--latent-dim", 3) == settings_of("mlp", latent_dim=3)
    assert decoder("--latent-dim", 3) == settings_of("gnn", latent_dim=3)


def test_options_add_to_the_decoder_of_the_file(decoder, tmp_path):
    (tmp_path / "c.yaml").write_text("decoder: {kind: chains, cutoff: 12.0, modes: 9}\n")
    config = ["--config", tmp_path / "c.yaml"]
    assert decoder(*config, "--modes", 4) == settings_of("chains", cutoff=12.0, modes=4)
    (tmp_path / "c.yaml").write_text("decoder: chains\n")
    assert decoder(*config, "--rigid", "none") == settings_of("chains", rigid="none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--groups", "A,B"], "--groups is for --decoder chains, not gnn"),
        (["--rigid", "full", "--decoder", "nma"], "--rigid is for --decoder chains, not nma"),
        (["--modes", "5"], "--modes is for --decoder chains or nma, not gnn"),
        (["--modes", "5", "--config", "mlp.yaml"], "--modes is for --decoder chains or nma, not mlp"),
        (["--latent-dim", "5", "--decoder", "chains"], "--latent-dim is for --decoder gnn or mlp, not chains"),
        (["--latent-dim", "5", "--config", "chains.yaml"], "--latent-dim is for --decoder gnn or mlp, not chains"),
        (["--latent-dim", "5", "--decoder", "none"], "decoder: unknown kind 'none'"),
        (["--groups", "A", "--config", "list.yaml"], "--config: decoder: expected a mapping"),
        (["--decoder", "nma", "--modes", "0"], r"modes: .*greater than or equal to 1"),
        (["--decoder", "chains", "--rigid", "loose"], r"rigid: .*'none', 'rotation' or 'full', found 'loose'"),
        (["--decoder", "chains", "--rigid", "none", "--modes", "0"], "nothing moves; choose at least one"),
    ],
)
def test_what_a_decoder_cannot_do_ends_with_one_line(cryomorph, simulated, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("mlp.yaml").write_text("decoder: mlp\n")
    Path("chains.yaml").write_text("decoder: {kind: chains}\n")
    Path("list.yaml").write_text("decoder: [chains]\n")
    files = [simulated / "particles.star", "--template", simulated / "template.cif", "--out", "run"]
    refused(cryomorph("train", *files, *arguments), message)
    assert not Path("run").exists()


def test_domains_that_do_not_fit_the_template_are_refused_and_can_be_given_anew(cryomorph, simulated, tmp_path):
    files = [simulated / "particles.star", "--template", simulated / "template.cif", "--out", tmp_path / "run"]
    command = ["train", *files, "--decoder", "chains", "--modes", 1, "--accelerator", "cpu", "--epochs", 1, "--groups"]
    for groups, message in (
        ("A:1-12", "--groups: none of them has residues 13 to 24 of chain A; put every residue in one"),
        ("A,B", "--groups: 'B': .* has no chain 'B'; there are A"),
        ("A:1-2,A:3-24", r"template\.cif: 'A:1-2' has 2 residues; a domain needs at least 3"),
    ):
        refused(cryomorph(*command, groups), message)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    result = cryomorph(*command, GROUPS)
    assert result.code == 0, result.err


def test_a_molecule_in_pieces_is_refused_by_residues_and_file(cryomorph, simulated, tmp_path):
    """The modes of the whole need springs between its parts, those of chains do not."""
    helix_model({"A": 14, "B": 7}).write_pdb(str(tmp_path / "two.pdb"))
    files = [simulated / "particles.star", "--template", tmp_path / "two.pdb"]
    options = ["--modes", 3, "--accelerator", "cpu", "--epochs", 1, "--batch", 48]
    for kind, code in (("nma", 2), ("chains", 0)):
        (tmp_path / f"{kind}.yaml").write_text(f"decoder: {{kind: {kind}, cutoff: 7.0}}\n")
        config = ["--config", tmp_path / f"{kind}.yaml", "--out", tmp_path / kind]
        result = cryomorph("train", *files, *options, *config)
        assert result.code == code, result.err
        if code:
            refused(
                result, r"/two\.pdb: springs of up to 7 Å do not hold residues 1 to 7 of chain B firmly to the rest"
            )


def test_a_chain_too_small_to_turn_is_named(cryomorph, simulated, tmp_path):
    helix_model({"A": 14, "B": 2}).write_pdb(str(tmp_path / "small.pdb"))
    particles = [simulated / "particles.star", "--template", tmp_path / "small.pdb", "--out", tmp_path / "run"]
    result = cryomorph("train", *particles, "--decoder", "chains")
    refused(result, r"small\.pdb: 'B' has 2 residues; a domain needs .* such as A\+B, or leave it out by --chains")


@pytest.fixture(scope="module")
def by_halves(simulated, tmp_path_factory):
    """A run whose decoder moves the halves of the helix."""
    out = tmp_path_factory.mktemp("halves") / "run"
    decoder = {"kind": "chains", "modes": 3, "groups": GROUPS}
    training = {"epochs": 3, "batch_size": 8, "checkpoint_minutes": 1e-9}
    train(parse_config(run_settings(simulated, decoder=decoder, training=training, latents="variational"), "test"), out)
    return out


def test_a_run_by_domains_is_evaluated_and_exported(cryomorph, by_halves, simulated, tmp_path):
    fitted = FittedRun(by_halves)
    assert list(fitted.model.latent_blocks())[:3] == ["modes A:1-12", "rotation A:1-12", "translation A:1-12"]
    assert latents_of(by_halves).shape == (48, 2 * (3 + 6 + 3))
    result = cryomorph("evaluate", by_halves, "--truth", simulated / "truth.npz")
    assert result.code == 0, result.err
    result = cryomorph("export", by_halves, "--conformations", tmp_path / "c.pdb", "--every", 12)
    assert (result.code, result.out) == (0, f"{tmp_path / 'c.pdb'}: 4 conformations\n")
    written = gemmi.read_structure(str(tmp_path / "c.pdb"))
    ((_, decoded),) = fitted.decode(np.arange(0, 48, 12))
    for model, expected in zip(written, decoded, strict=True):
        places = [atom.pos.tolist() for chain in model for residue in chain for atom in residue]
        np.testing.assert_allclose(places, expected, atol=1e-3)


def test_halves_of_a_bent_helix_find_the_bend(simulated, tmp_path):
    decoder = {"kind": "chains", "modes": 3, "groups": GROUPS}
    training = {"epochs": 30, "batch_size": 8}
    train(parse_config(run_settings(simulated, decoder=decoder, training=training), "test"), tmp_path / "run")
    result = evaluate(tmp_path / "run", simulated / "truth.npz")
    assert result.rmsd_mean < 0.75 * min(result.rmsd_template, result.rmsd_constant)


def test_a_killed_run_by_domains_ends_as_if_never_stopped(by_halves, tmp_path):
    driver = Path(__file__).parent / "killed_run.py"
    command = [sys.executable, driver, by_halves / "config.yaml", tmp_path, "batch:9"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    train(read_config(by_halves / "config.yaml"), tmp_path / "batch:9", resume=True)
    assert_same_run(by_halves, tmp_path / "batch:9")
