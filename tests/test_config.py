from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.config import RunConfig, parse_config, read_config, read_indices, read_yaml
from cryomorph.errors import InputError

LEAST = {"particles": {"path": "p.star"}, "template": {"path": "t.pdb"}}


def test_defaults_are_paper_a_s_model():
    config = parse_config(LEAST, "test")
    assert (config.decoder.kind, config.decoder.latent_dim) == ("gnn", 8)
    assert (config.poses.kind, config.likelihood.kind, config.beads) == ("known", "matched_filter", "auto")
    weights = {kind: prior.weight for kind, prior in config.priors.terms.items()}
    assert weights == {"centre": 5e-4, "bonds": 0.01, "log_distance": 0.01}
    assert config.priors.terms["log_distance"].omega == 0.25


def test_a_component_may_be_given_by_its_kind_alone():
    short = parse_config(LEAST | {"decoder": "mlp", "latents": "table"}, "test")
    assert short == parse_config(LEAST | {"decoder": {"kind": "mlp"}, "latents": {"kind": "table"}}, "test")
    assert (short.decoder.layers, short.decoder.width) == (8, 32)


def test_the_default_kind_need_not_be_named():
    assert parse_config(LEAST | {"decoder": {"layers": 3}}, "test").decoder.layers == 3


def test_priors_that_are_not_mentioned_stay_and_a_weight_of_0_is_kept():
    config = parse_config(LEAST | {"priors": {"terms": {"log_distance": {"weight": 0}}}}, "test")
    assert config.priors.terms["log_distance"].weight == 0
    assert config.priors.terms["bonds"].weight == 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"decoder": {"kind": "mlp", "width": 7}, "latents": "variational", "beads": "atom", "seed": 5},
        {"priors": {"strength": 12.5, "terms": {"log_distance": {"omega": 0.5}}}, "latent_prior": 0.1},
        {
            "particles": {"path": "ä b.cs", "datadir": "d", "box": 64, "indices": "i.npy", "pixel_size": 1.5},
            "template": {"path": "t.cif", "chains": ["A", "B"], "frame": "corner"},
            "training": {"epochs": 3, "learning_rate": 1e-4},
        },
    ],
)
def test_yaml_round_trip(tmp_path, changes):
    config = parse_config(LEAST | changes, "test")
    config.write(tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert read_config(tmp_path / "config.yaml").to_yaml() == config.to_yaml()


def test_resolved_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"particles": {"path": "p.cs", "passthrough": "q.cs", "datadir": "/data"}, "template": {"path": "t.pdb"}}
    config = parse_config(settings, "test").resolved()
    assert config.particles.path == tmp_path / "p.cs"
    assert config.particles.passthrough == tmp_path / "q.cs"
    assert config.particles.datadir == Path("/data")
    assert config.template.path == tmp_path / "t.pdb"
    assert config.particles.indices is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": {}}, r"particles\.path: Field required"),
        ({"template": None}, "template: "),
        ({"nonsense": 1}, "nonsense: "),
        ({"training": {"epoch": 1}}, r"training\.epoch: "),
        ({"training": {"epochs": 0}}, r"training\.epochs: .*greater than or equal to 1, found 0"),
        ({"training": {"epochs": "many"}}, r"training\.epochs: .*integer.*'many'"),
        ({"training": {"learning_rate": -1}}, r"training\.learning_rate"),
        ({"training": 7}, "training: "),
        ({"decoder": "transformer"}, "decoder: unknown kind 'transformer'; there are .*gnn, mlp"),
        ({"decoder": 7}, "decoder: expected a kind, one of .*gnn, mlp"),
        ({"decoder": {"kind": "gnn", "width": 3}}, "width: "),
        ({"decoder": {"latent_dim": 0}}, "latent_dim"),
        ({"priors": {"terms": {"elastic": {}}}}, "unknown kind 'elastic'; there are bonds, centre, log_distance"),
        ({"priors": {"terms": {"bonds": {"weight": -1}}}}, "weight"),
        ({"priors": {"terms": {"bonds": {"weight": float("nan")}}}}, "weight"),
        ({"priors": {"terms": {"log_distance": {"weight": -0.01}}}}, "weight"),
        ({"priors": {"terms": {"centre": {"weight": -0.01}}}}, "weight"),
        ({"priors": {"strength": -1}}, r"priors\.strength"),
        ({"priors": {"terms": [1]}}, r"priors\.terms: expected a mapping"),
        ({"beads": "cg"}, "beads: .*'ca', 'residue' or 'atom', found 'cg'"),
        ({"particles": {"path": "p.star", "box": 8}}, r"particles\.box: .*16"),
        ({"particles": {"path": "p.star", "pixel_size": -1.0}}, r"particles\.pixel_size: .*greater than 0"),
        ({"template": {"path": "t", "frame": "edge"}}, r"template\.frame"),
        ({"hardware": {"accelerator": "abacus"}}, r"hardware\.accelerator: .*'abacus'"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"a\nb": 1}, r"'a\\nb': there is no such setting"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_config(LEAST | change, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert "\n" not in str(caught.value)


def complaint(data):
    """Return what parse_config says against the data, nothing if it accepts them."""
    try:
        parse_config(data, "test")
    except InputError as error:
        return str(error)
    return ""


names = st.sampled_from([*RunConfig.model_fields, "path", "kind", "gnn", "terms", "bonds", "weight", "strength"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | names
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=3) | st.integers(), inner),
    max_leaves=12,
)


@given(nested | st.dictionaries(names, nested))
@settings(max_examples=300, deadline=None)
def test_anything_that_yaml_may_hold_is_a_configuration_or_an_input_error(data):
    for candidate in (data, LEAST | data if isinstance(data, dict) else LEAST | {"decoder": data}):
        assert "\n" not in complaint(candidate)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "7\n", "just text\n"])
def test_yaml_without_a_mapping_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml: expected a mapping"):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "content", [b"a: [1\nb: 2", b"a: b: c", b"\xff\xfe\x00", b"a: !!python/object:os.system 1", None]
)
def test_what_is_no_yaml_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.yaml: not a readable YAML file") as caught:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_yaml_file_that_contains_itself_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(LEAST) + "decoder: &a\n  kind: *a\n")
    with pytest.raises(InputError):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["i.txt", "i.npy"])
def test_indices_are_read(tmp_path, name):
    if name.endswith("npy"):
        np.save(tmp_path / name, np.array([3.0, 0.0, 12.0]))
    else:
        (tmp_path / name).write_text("3\n0\n12\n")
    rows = read_indices(tmp_path / name)
    assert rows.dtype == np.int64
    assert rows.tolist() == [3, 0, 12]


def test_a_text_file_of_indices_may_have_comments_and_empty_lines(tmp_path):
    (tmp_path / "i.txt").write_text("# chosen by hand\n4 # the best\n\n 11 ")
    assert read_indices(tmp_path / "i.txt").tolist() == [4, 11]


@pytest.mark.parametrize("text", ["1.5\n", "a\n", "1 2\n3 4\n", "nan\n", "inf\n", "1e300\n", "", "# none\n"])
def test_indices_that_are_no_row_numbers_are_refused(tmp_path, text):
    (tmp_path / "i.txt").write_text(text)
    with pytest.raises(InputError, match=r"i\.txt: "):
        read_indices(tmp_path / "i.txt")


@pytest.mark.parametrize("array", [np.array([True]), np.array([[1]]), np.array(["1"]), np.array(3), np.array([1 + 2j])])
def test_arrays_that_are_no_row_numbers_are_refused(tmp_path, array):
    np.save(tmp_path / "i.npy", array)
    with pytest.raises(InputError, match=r"i\.npy: "):
        read_indices(tmp_path / "i.npy")


def test_an_archive_or_a_pickle_is_no_list_of_indices(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    (tmp_path / "a.npz").rename(tmp_path / "i.npy")
    np.save(tmp_path / "p.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "e.npy").write_bytes(b"")
    for name in ("i.npy", "p.npy", "e.npy", "missing.npy", "missing.txt"):
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_indices(tmp_path / name)
