import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml

from command_line import refused
from cryomorph import __version__
from cryomorph.cli.application import COMMANDS
from cryomorph.config import parse_config, read_config
from cryomorph.conformations.chains import ChainsSettings
from cryomorph.conformations.nma import NMASettings
from cryomorph.errors import InputError
from cryomorph.particles.found import FoundPoses
from cryomorph.particles.star import read_star
from cryomorph.run import RunFolder
from cryomorph.search.joint import SearchSettings
from cryomorph.simulate import SimulationSettings
from particle_files import Facts, noise, without, write_cs, write_stack, write_star
from small_runs import folder_state


@pytest.fixture
def data(tmp_path, helix_file):
    """Five particles of 32 pixels as p.star and p.cs, in a folder with a template, helix.pdb."""
    facts = Facts(box=32)
    write_stack(tmp_path / "stack.mrcs", noise(5, 32))
    write_star(tmp_path / "p.star", facts.star31())
    write_cs(tmp_path / "p.cs", facts.cs())
    return tmp_path


def edited(name, **columns):
    """Change the particles table, or the optics table for columns that are there."""

    def change(folder: Path) -> Path:
        blocks = Facts(box=32).star31()
        for column, value in columns.items():
            table = next((t for t in blocks.values() if column in t), blocks["particles"])
            if value is None:
                del table[column]
            else:
                table[column] = [value] * len(next(iter(table.values())))
        return write_star(folder / name, blocks)

    return change


def content(name, make):
    def change(folder: Path) -> Path:
        (folder / name).write_bytes(make(folder))
        return folder / (name if not name.endswith("mrcs") else "p.star")

    return change


def lacking(*fields):
    return lambda folder: write_cs(folder / "other.cs", without(Facts(box=32).cs(), *fields))


def removed(name):
    def change(folder: Path) -> Path:
        (folder / name).unlink()
        return folder / "p.star"

    return change


# What is wrong with the metadata or the files: found before anything is written.
BAD_PARTICLES = {
    "missing star": (lambda folder: folder / "none.star", r"none\.star: no such file"),
    "missing cs": (lambda folder: folder / "none.cs", r"none\.cs: no such file"),
    "empty star": (content("e.star", lambda f: b""), r"e\.star: .*empty"),
    "empty cs": (content("e.cs", lambda f: b""), r"e\.cs: .*empty"),
    "empty mrcs": (content("stack.mrcs", lambda f: b""), r"stack\.mrcs: "),
    "cut star": (content("c.star", lambda f: (f / "p.star").read_bytes()[:-40]), r"c\.star: .*truncated"),
    "cut cs": (content("c.cs", lambda f: (f / "p.cs").read_bytes()[:-100]), r"c\.cs: "),
    "cut mrcs": (content("stack.mrcs", lambda f: (f / "stack.mrcs").read_bytes()[:-100]), r"stack\.mrcs: "),
    "star without tables": (content("t.star", lambda f: b"data_particles\n"), r"t\.star: has no table"),
    "binary star": (content("b.star", lambda f: bytes(range(256))), r"b\.star: not a readable STAR file"),
    "text cs": (content("t.cs", lambda f: b"hello"), r"t\.cs: "),
    "a bare stack": (lambda folder: folder / "stack.mrcs", r"give the one that lists the particles"),
    "a folder": (lambda folder: folder, "is not a RELION"),
    "missing images": (removed("stack.mrcs"), r"stack\.mrcs"),
    "no defocus": (edited("d.star", rlnDefocusU=None), r"d\.star: .*rlnDefocusU"),
    "no voltage": (edited("v.star", rlnVoltage=None), r"v\.star: .*rlnVoltage"),
    "no poses": (edited("a.star", rlnAngleRot=None, rlnAngleTilt=None, rlnAnglePsi=None), r"a\.star: has no poses"),
    "no CTF in cs": (lacking("ctf/df1_A"), r"other\.cs: .*ctf/df1_A"),
    "no poses in cs": (lacking("alignments3D/pose", "alignments3D/shift"), r"other\.cs: has no poses"),
    "volts": (edited("v.star", rlnVoltage="300000"), r"rlnVoltage is 300000, .* kV"),
    "negative pixel size": (
        edited("x.star", rlnImagePixelSize="-1.5"),
        r"rlnImagePixelSize is -1\.5, expected",
    ),
    "defocus in µm": (edited("u.star", rlnDefocusU="1.5", rlnDefocusV="1.4"), r"rlnDefocusU .* µm"),
    "angle that is no number": (edited("n.star", rlnAngleRot="up"), r"row 1 .*rlnAngleRot is 'up', expected a number"),
}


@pytest.mark.parametrize("case", BAD_PARTICLES)
def test_bad_particles_end_with_one_line_and_nothing_written(cryomorph, data, case):
    make, message = BAD_PARTICLES[case]
    particles = make(data)
    before = folder_state(data)
    result = cryomorph("train", particles, "--template", data / "helix.pdb", "--out", data / "run")
    refused(result, message)
    assert result.err.count("\n") == 1
    assert folder_state(data) == before
    assert not (data / "run").exists()


def trace(*atoms):
    return lambda folder: (folder / "t.pdb").write_text("".join(atoms)) and folder / "t.pdb"


BAD_TEMPLATES = {
    "missing": (lambda folder: folder / "none.pdb", r"none\.pdb"),
    "empty": (lambda folder: (folder / "t.pdb").write_text("") or folder / "t.pdb", r"t\.pdb"),
    "without Cα": (
        lambda folder: (
            (folder / "t.pdb").write_text(
                "".join(line for line in (folder / "helix.pdb").read_text().splitlines(True) if line[12:16] != " CA ")
            )
            and folder / "t.pdb"
        ),
        r"t\.pdb",
    ),
    "far away": (
        lambda folder: (
            (folder / "t.pdb").write_text(
                "".join(
                    f"{line[:30]}{float(line[30:38]) + 500:8.3f}{line[38:]}" if line.startswith("ATOM") else line
                    for line in (folder / "helix.pdb").read_text().splitlines(True)
                )
            )
            and folder / "t.pdb"
        ),
        r"t\.pdb: .*not to be docked",
    ),
    "an image stack": (lambda folder: folder / "stack.mrcs", r"stack\.mrcs"),
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_bad_templates_end_with_one_line_and_nothing_written(cryomorph, data, case):
    make, message = BAD_TEMPLATES[case]
    template = make(data)
    before = folder_state(data)
    refused(cryomorph("train", data / "p.star", "--template", template, "--out", data / "run"), message)
    assert folder_state(data) == before


def test_a_template_larger_than_the_box_is_refused(cryomorph, data):
    star = edited("small.star", rlnImagePixelSize="0.4")(data)
    result = cryomorph("train", star, "--template", data / "helix.pdb", "--out", data / "run")
    refused(result, r"helix\.pdb: the template reaches \d+ Å .* check the pixel size")
    assert not (data / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decoder", "transformer"], "decoder: unknown kind 'transformer'; there are chains, gnn, mlp, nma"),
        (["--likelihood", "guess"], "likelihood: unknown kind 'guess'"),
        (["--poses", "guess"], "poses: unknown kind 'guess'"),
        (["--shift-range", "3"], "--shift-range and --library are for --poses search"),
        (["--library", "helix.pdb", "--poses", "refine"], "--shift-range and --library are for --poses search"),
        (["--latents", "guess"], "latents: unknown kind 'guess'"),
        (["--beads", "cg"], "beads: .*'cg'"),
        (["--template-frame", "edge"], r"template\.frame: .*'edge'"),
        (["--pixel-size", "-1"], r"particles\.pixel_size: .*greater than 0"),
        (["--learning-rate", "0"], r"training\.learning_rate"),
        (["--latent-prior", "-1"], "latent_prior"),
        (["--prior-strength", "-1"], r"priors\.strength"),
        (["--r2", "-0.1"], "weight: .*greater than or equal to 0"),
        (["--accelerator", "abacus"], r"hardware\.accelerator"),
        (["--precision", "64"], r"hardware\.precision"),
        (["--chains", "Z"], "Z"),
        (["--first", "6"], "the first 6 particles were asked for, but it has 5"),
        (["--first", "2", "--indices", "i.txt"], "choose one"),
        (["--indices", "none.txt"], r"none\.txt: not readable"),
        (["--indices", "far.txt"], "out of range, expected 0 to 4"),
        (["--box", "64"], "box of 64 pixels was asked for, expected 2 to 32"),
        (["--passthrough", "p.cs"], "passthrough file only goes with a cryoSPARC"),
        (["--datadir", "none"], r"stack\.mrcs"),
        (["--config", "none.yaml"], r"none\.yaml: not a readable YAML file"),
        (["--config", "list.yaml"], r"list\.yaml: expected a mapping"),
        (["--config", "broken.yaml"], r"broken\.yaml: not a readable YAML file"),
        (["--config", "key.yaml"], r"key\.yaml and command line: training\.epoch: "),
        (["--config", "section.yaml", "--epochs", "3"], "training: expected a mapping"),
        (["--config", "section.yaml"], r"training: .*found \[3\]"),
        (["--resume"], "no checkpoint to resume from"),
        (["--seed", str(2**70)], "seed"),
    ],
)
def test_a_wrong_option_ends_with_one_line_and_nothing_written(cryomorph, data, monkeypatch, arguments, message):
    monkeypatch.chdir(data)
    Path("i.txt").write_text("0\n")
    Path("far.txt").write_text("0\n5\n")
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: [\n")
    Path("key.yaml").write_text("training: {epoch: 3}\n")
    Path("section.yaml").write_text("training: [3]\n")
    before = folder_state(data)
    refused(cryomorph("train", "p.star", "--template", "helix.pdb", "--out", "run", *arguments), message)
    assert folder_state(data) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--template", "helix.pdb", "--out", "run"], "PARTICLES is missing"),
        (["p.star", "--out", "run"], "--template is missing"),
        (["p.star", "--template", "helix.pdb"], "--out is missing"),
    ],
)
def test_what_is_missing_is_named(cryomorph, data, monkeypatch, arguments, message):
    monkeypatch.chdir(data)
    refused(cryomorph("train", *arguments), message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "p.star", "--nonsense", "3"],
        ["train", "p.star", "--epochs", "many"],
        ["train", "p.star", "--box", "8"],
        ["refine"],
        ["evaluate", "run"],
        ["export"],
        ["simulate", "x.pdb"],
        ["export", "run", "--every", "0"],
    ],
)
def test_usage_errors_end_with_code_2(cryomorph, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = cryomorph(*arguments)
    assert result.code == 2
    assert re.search(r"Usage: .*\[OPTIONS\]", result.err)
    assert "Traceback" not in result.err
    assert not any(tmp_path.iterdir())


@pytest.fixture
def own(simulated, tmp_path):
    """A copy of `simulated` whose images may be spoilt."""
    for name in ("particles.star", "particles.mrcs", "template.cif"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    return tmp_path


def spoil(folder, change):
    with mrcfile.mmap(folder / "particles.mrcs", "r+") as stack:
        change(stack.data)


BAD_IMAGES = {
    "NaN": (lambda images: images[7].__setitem__((3, 4), np.nan), r"particles\.mrcs: image 8 has a pixel that is NaN"),
    "infinite": (lambda images: images[7].__setitem__((3, 4), np.inf), r"particles\.mrcs: image 8 has a pixel"),
    "constant": (lambda images: images[7].fill(3), r"particles\.mrcs: image 8 does not vary .* remove row 8"),
    "inverted": (lambda images: images.__imul__(-1), "anticorrelate with the template .* --invert"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_end_with_one_line_and_no_result(cryomorph, own, case):
    change, message = BAD_IMAGES[case]
    spoil(own, change)
    arguments = ["--out", own / "run", "--accelerator", "cpu", "--epochs", 1]
    refused(cryomorph("train", own / "particles.star", "--template", own / "template.cif", *arguments), message)
    assert not (own / "run" / "checkpoint.pt").exists()
    assert not (own / "run" / "latents.npy").exists()


def test_the_command_as_a_program_ends_with_one_line(data):
    """Not in this process: exit code and streams as a shell sees them."""
    command = [sys.executable, "-m", "cryomorph", "train", "none.star", "--template", "helix.pdb", "--out", "run"]
    done = subprocess.run(command, cwd=data, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: none.star: no such file; give the path of a RELION .star or cryoSPARC .cs file\n" or (
        re.fullmatch(r"error: \S+none\.star: no such file; [^\n]+\n", done.stderr)
    )


def test_train_evaluate_and_export(cryomorph, simulated, tmp_path):
    options = ["--epochs", 1, "--batch", 24, "--latent-dim", 2, "--accelerator", "cpu"]
    out = tmp_path / "run [bold]"  # no markup
    result = cryomorph(
        "train", simulated / "particles.star", "--template", simulated / "template.cif", "--out", out, *options
    )
    assert result.code == 0, result.err
    assert result.out == f"run complete: {out}\n"
    assert "correlation" in result.err
    result = cryomorph("evaluate", out, "--truth", simulated / "truth.npz")
    assert result.code == 0, result.err
    assert result.out.count("Å") == 7
    assert re.search(r"rotation, median\W+0\.00°", result.out)
    assert re.search(r"rotation more than 20° off\W+0\.0%", result.out)
    assert re.search(r"shift, median\W+0\.000 Å", result.out)
    assert str(out) in result.out
    result = cryomorph("export", out, "--conformations", tmp_path / "c.cif", "--every", 10)
    assert (result.code, result.out) == (0, f"{tmp_path / 'c.cif'}: 5 conformations\n")
    again = ["export", out, "--conformations", tmp_path / "c.cif", "--every", 24]
    refused(cryomorph(*again), r"c\.cif: exists already; choose another name, or give --overwrite")
    result = cryomorph(*again, "--overwrite")
    assert (result.code, result.out) == (0, f"{tmp_path / 'c.cif'}: 2 conformations\n")
    (tmp_path / "rows.txt").write_text("4\n2\n")
    result = cryomorph("export", out, "--particles", tmp_path / "p.star", "--indices", tmp_path / "rows.txt")
    assert (result.code, result.out) == (0, f"{tmp_path / 'p.star'}: 2 particles\n")
    assert read_star(tmp_path / "p.star").frame.tolist() == [4, 2]


def test_particles_are_exported_with_found_or_original_poses(cryomorph, copied, simulated, tmp_path):
    original = read_star(simulated / "particles.star")
    poses = FoundPoses(original.rotation[::-1], original.shift[::-1], np.full(48, 0.5))
    RunFolder(copied).save_poses(poses)
    result = cryomorph("export", copied, "--particles", tmp_path / "p.star", "--every", 10)
    assert (result.code, result.out) == (0, f"{tmp_path / 'p.star'}: 5 particles\n")
    assert "with the poses that the run found" in " ".join(result.err.split())
    np.testing.assert_allclose(read_star(tmp_path / "p.star").rotation, poses.rotation[::10], atol=1e-7)
    assert "_cryomorphPoseEntropy #14\n" in (tmp_path / "p.star").read_text()
    result = cryomorph("export", copied, "--particles", tmp_path / "o.star", "--every", 10, "--original-poses")
    assert result.code == 0, result.err
    np.testing.assert_array_equal(read_star(tmp_path / "o.star").rotation, original.rotation[::10])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conformations", "c.xyz"], r"c\.xyz: cannot write this kind of file; expected \.cif, \.pdb or \.dcd"),
        (["--particles", "p.cs"], r"p\.cs: the particles are from a \.star file"),
        (["--particles", "p.txt"], r"p\.txt: "),
        (["--conformations", "c.cif", "--indices", "far.txt"], "row 48 does not exist; the run has 48 particles"),
        (["--conformations", "c.cif", "--indices", "minus.txt"], "row -1 does not exist"),
        (["--conformations", "c.cif", "--indices", "half.txt"], r"half\.txt: row numbers must be whole numbers"),
        (["--conformations", "c.cif", "--indices", "empty.txt"], r"empty\.txt"),
        (["--conformations", "file/c.cif"], "cannot write there"),
        ([], "nothing to export"),
    ],
)
def test_an_export_that_cannot_be_writes_nothing(cryomorph, finished, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name, text in (("far", "3\n48\n"), ("minus", "-1\n"), ("half", "0.5\n"), ("empty", "")):
        Path(f"{name}.txt").write_text(text)
    Path("file").write_text("")
    before = folder_state(tmp_path)
    refused(cryomorph("export", finished, *arguments), message)
    assert folder_state(tmp_path) == before


def test_evaluation_with_a_truth_of_something_else_writes_nothing(cryomorph, finished, simulated, tmp_path):
    with np.load(simulated / "truth.npz") as truth:
        coordinates, conformation = truth["coordinates"], truth["conformation"]
    np.savez(tmp_path / "few.npz", coordinates=coordinates, conformation=conformation[:40])
    np.savez(tmp_path / "short.npz", coordinates=coordinates[:, :20], conformation=conformation)
    np.savez(tmp_path / "other.npz", positions=coordinates)
    (tmp_path / "text.npz").write_text("hello")
    before = folder_state(finished)
    for name, message in [
        ("few", r"few\.npz: knows 40 images, \S+particles\.star has 48: it belongs to other particles"),
        ("short", "run has 24 residues, the truth 20"),
        ("other", "holds no array coordinates"),
        ("text", "not a readable .npz archive"),
        ("none", r"none\.npz"),
    ]:
        refused(cryomorph("evaluate", finished, "--truth", tmp_path / f"{name}.npz"), message)
    assert folder_state(finished) == before
    refused(cryomorph("evaluate", tmp_path, "--truth", simulated / "truth.npz"), "no run there")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "0"], "command line: box: "),
        (["--pixel-size", "-1"], "command line: pixel_size: "),
        (["--voltage", "0"], "command line: voltage: "),
        (["--defocus", "a,b"], "'a,b': expected LOW,HIGH or one number"),
        (["--defocus", "1,2,3"], "expected LOW,HIGH"),
        (["--defocus", ""], "expected LOW,HIGH"),
        (["--defocus", "20000,10000"], "the range starts at 20000 and ends below it"),
        (["--defocus", "nan"], "command line: "),
        (["--dtype", "int8"], "command line: dtype: "),
        (["--template", "none.pdb"], r"none\.pdb"),
        (["--topology", "straight.pdb"], "a topology is for"),
        (["--poses", "none.npz"], r"none\.npz"),
        (["--poses", "particles.star"], r"rotations: shape \(48, 3, 3\), expected \(20, 3, 3\)"),
        (["--box", "12"], "use at least"),
    ],
)
def test_a_simulation_that_cannot_be_writes_nothing(cryomorph, simulated, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(simulated)
    before = folder_state(simulated)
    refused(cryomorph("simulate", "ensemble.pdb", "--out", tmp_path / "new", *arguments), message)
    assert folder_state(simulated) == before
    assert not (tmp_path / "new").exists()


def test_simulate_says_where_its_files_are(cryomorph, simulated, tmp_path):
    arguments = ["--images", 1, "--box", 24, "--pixel-size", 2.5, "--defocus", 8000]
    result = cryomorph("simulate", simulated / "ensemble.pdb", "--out", tmp_path / "new", *arguments)
    assert (result.code, result.out.count("\n")) == (0, 2), result.err
    star = read_star(tmp_path / "new" / "particles.star")
    assert len(star) == 2
    np.testing.assert_allclose(star.defocus_u, 8000)
    refused(cryomorph("simulate", simulated / "ensemble.pdb", "--out", tmp_path / "new", *arguments), "exists already")


def test_a_run_s_configuration_given_back_is_the_same_configuration(resolved, finished):
    assert resolved("--config", finished / "config.yaml") == read_config(finished / "config.yaml")


def test_the_command_line_alone_gives_the_defaults(resolved, simulated):
    star, template = simulated / "particles.star", simulated / "template.cif"
    settings = {"particles": {"path": str(star)}, "template": {"path": str(template)}}
    assert resolved(star, "--template", template) == parse_config(settings, "test")


def test_options_override_the_file(resolved, tmp_path, finished):
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    settings["decoder"] = "mlp"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    given = ["--config", tmp_path / "c.yaml"]
    before = resolved(*given)
    assert (before.decoder.kind, before.training.epochs) == ("mlp", 2)
    after = resolved(*given, "--latent-dim", 3, "--epochs", 9, "--r2", 0, "--box", 20, "--chains", "A,B", "--seed", 4)
    assert (after.decoder.kind, after.decoder.latent_dim, after.seed) == ("mlp", 3, 4)
    assert (after.training.epochs, after.training.batch_size) == (9, before.training.batch_size)
    assert after.priors.terms["log_distance"].weight == 0
    assert after.priors.terms["bonds"] == before.priors.terms["bonds"]
    assert after.particles == before.particles.model_copy(update={"box": 20})
    assert after.template.chains == ("A", "B")


def test_options_of_the_search_are_its_settings(resolved, simulated, monkeypatch):
    monkeypatch.chdir(simulated)
    search = ["particles.star", "--template", "template.cif", "--poses", "search"]
    assert resolved(*search).search == SearchSettings()
    config = resolved(*search, "--shift-range", 4.5, "--library", "closed.pdb", "--library", "open.cif")
    models = (simulated / "closed.pdb", simulated / "open.cif")
    assert config.search == SearchSettings(shift_range=4.5, models=models)


def test_another_kind_drops_the_settings_of_the_former(resolved, finished):
    """The file's gnn has settings that an mlp does not know; the same kind keeps its settings."""
    assert resolved("--config", finished / "config.yaml", "--decoder", "mlp").decoder.latent_dim == 8
    kept = resolved("--config", finished / "config.yaml", "--decoder", "gnn")
    assert kept == read_config(finished / "config.yaml")


def test_static_density_occupancy_and_b_factors_are_looked_for_if_asked(resolved):
    given = ("particles.star", "--template", "template.cif")
    plain = resolved(*given).scattering
    assert (plain.surroundings, plain.occupancy, plain.b_factors) == (False, False, False)
    asked = resolved(*given, "--surroundings", "--occupancy", "--b-factors").scattering
    assert (asked.surroundings, asked.occupancy, asked.b_factors) == (True, True, True)


def test_paths_are_made_absolute(resolved, simulated, monkeypatch):
    monkeypatch.chdir(simulated)
    config = resolved("particles.star", "--template", "template.cif")
    assert config.particles.path == simulated / "particles.star"
    assert config.template.path == simulated / "template.cif"


def option_defaults(text):
    """Defaults named in a help text, e.g. {"epochs": "40"}."""
    found = {}
    for name, body in re.findall(r"--([a-z0-9-]+)(.*?)(?=\n[^\n]*--[a-z]|\Z)", text, flags=re.DOTALL):
        words = re.sub(r"[│\s]+", " ", body)
        if default := re.search(r"\[default: ([^\]]+)\]", words):
            found[name] = default[1]
    return found


def test_help_of_train_names_units_and_the_real_defaults(cryomorph):
    text = cryomorph("train", "--help").out
    assert "Å" in text
    config = parse_config({"particles": {"path": "p"}, "template": {"path": "t"}}, "test")
    expected = {
        "template-frame": config.template.frame,
        "beads": config.beads,
        "decoder": config.decoder.kind,
        "latent-dim": config.decoder.latent_dim,
        "modes": f"nma {NMASettings().modes}, chains {ChainsSettings().modes}",
        "rigid": ChainsSettings().rigid,
        "latents": config.latents.kind,
        "latent-prior": config.latent_prior,
        "poses": config.poses.kind,
        "shift-range": config.search.shift_range,
        "likelihood": config.likelihood.kind,
        "calibration": config.calibration.shells,
        "prior-strength": config.priors.strength,
        "r2": config.priors.terms["log_distance"].weight,
        "epochs": config.training.epochs,
        "batch": config.training.batch_size,
        "learning-rate": config.training.learning_rate,
        "latent-learning-rate": config.training.latent_learning_rate,
        "accelerator": config.hardware.accelerator,
        "devices": config.hardware.devices,
        "precision": config.hardware.precision,
        "seed": config.seed,
    }
    named = option_defaults(text)
    assert named.pop("chains") == "all"
    assert named.keys() == expected.keys()
    for name, value in expected.items():
        found = named[name]
        assert (float(found) if isinstance(value, int | float) else found) == value, name


def test_help_of_simulate_names_units_and_the_real_defaults(cryomorph):
    text = cryomorph("simulate", "--help").out
    for unit in ("Å", "kV", "mm", "degrees", "dB", "Electrons per Å²"):
        assert unit in text
    named, real = option_defaults(text), SimulationSettings()
    assert float(named["voltage"]) == real.voltage
    assert float(named["cs"]) == real.spherical_aberration
    assert float(named["amplitude-contrast"]) == real.amplitude_contrast
    assert float(named["dose"]) == real.dose
    assert float(named["pixel-size"]) == real.pixel_size
    assert (int(named["box"]), int(named["images"])) == (real.box, real.images_per_conformation)
    assert tuple(map(float, named["defocus"].split(","))) == real.defocus
    assert named["dtype"] == real.dtype


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_every_command_has_help(cryomorph, command):
    result = cryomorph(command, "--help")
    assert result.code == 0
    assert re.search(rf"Usage: .* {command} \[OPTIONS\]", result.out)
    assert command in cryomorph("--help").out
    if command == "evaluate":
        assert "Å" in result.out


def test_version(cryomorph):
    assert cryomorph("--version").out == f"cryomorph {__version__}\n"


def test_a_follower_of_the_first_process_says_no_more_than_its_error(cryomorph, monkeypatch, simulated, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "1")

    def remarks(config, out, **rest):
        logging.getLogger("cryomorph.workflows").info("a remark")
        return type("Run", (), {"path": out})

    arguments = ["--template", simulated / "template.cif", "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr("cryomorph.workflows.train", remarks)
        result = cryomorph("train", simulated / "particles.star", *arguments)
    assert (result.code, result.out, result.err) == (0, "", "")
    result = cryomorph("train", "none.star", "--template", "t", "--out", "run")
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"error: process 1: \S*none\.star: no such file; [^\n]+\n", result.err)


class OutOfMemoryError(RuntimeError):
    """What PyTorch raises on a GPU is known by its name: the command line does not import PyTorch."""


FAILURES = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device", "run/x.pt"), "run/x.pt: No space left on device"),
    "disk full, no file": (OSError(errno.ENOSPC, "No space left on device"), "output: No space left on device"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "out"), "out: Disk quota exceeded"),
    "GPU full": (OutOfMemoryError("CUDA out of memory. Tried"), "the GPU's memory is full; lower --batch or --box"),
    "peer gone": (
        RuntimeError("[../third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"),
        "another process of this run stopped; see its own message",
    ),
    "bad input": (InputError("p.star: no"), "p.star: no"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_that_a_user_can_mend_ends_with_one_line(cryomorph, monkeypatch, data, case):
    error, line = FAILURES[case]

    def fails(*args, **rest):
        raise error

    monkeypatch.setattr("cryomorph.workflows.train", fails)
    result = cryomorph("train", data / "p.star", "--template", data / "helix.pdb", "--out", data / "run")
    assert (result.code, result.out, result.err) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize(
    "error", [ValueError("shapes"), RuntimeError("mat1 and mat2"), OSError(errno.EBADF, "Bad file descriptor")]
)
def test_an_error_in_the_program_keeps_its_traceback(cryomorph, monkeypatch, data, error):
    def fails(*args, **rest):
        raise error

    monkeypatch.setattr("cryomorph.workflows.train", fails)
    with pytest.raises(type(error)) as caught:
        cryomorph("train", data / "p.star", "--template", data / "helix.pdb", "--out", data / "run")
    assert caught.value is error


def test_ctrl_c_says_how_to_go_on(cryomorph, monkeypatch, data):
    def interrupted(*args, **rest):
        raise KeyboardInterrupt

    monkeypatch.setattr("cryomorph.workflows.train", interrupted)
    result = cryomorph("train", data / "p.star", "--template", data / "helix.pdb", "--out", data / "run")
    assert result.code == 130
    assert "run the same command again to continue" in result.err


def test_starting_up_does_not_import_torch():
    """`cryomorph --help` answers at once."""
    code = "import sys, cryomorph.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False, timeout=60).returncode == 0
