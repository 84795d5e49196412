import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryomorph.errors import InputError
from cryomorph.structure.model import read_template
from cryomorph.structure.records import read_models
from structure_builders import atom_line, trace_lines, write


def test_reads_columns_of_a_pdb_line(tmp_path):
    line = atom_line(
        "CA", "ALA", -5, (1.5, -2.25, 3.125), "B", alternate="A", insertion="C", occupancy=0.4, element="C"
    )
    (atom,) = read_models(write(tmp_path, line))[0]
    assert (atom.name, atom.residue_name, atom.chain, atom.residue_id) == ("CA", "ALA", "B", "-5C")
    assert (atom.alternate, atom.occupancy, atom.element, atom.position) == ("A", 0.4, "C", (1.5, -2.25, 3.125))


def test_reads_hybrid36_residue_numbers(tmp_path):
    line = atom_line("CA", "ALA", 1, (0, 0, 0)).replace("A   1 ", "AA000 ")
    assert read_models(write(tmp_path, line))[0][0].residue_id == "10000"


@pytest.mark.parametrize(
    ("field", "residue", "chain"), [("TIP3W", "TIP3", "W"), ("ALAAB", "ALA", "AB"), ("ALA B", "ALA", "B")]
)
def test_column_21_belongs_to_a_residue_or_a_chain(tmp_path, field, residue, chain):
    line = atom_line("CA", "ALA", 1, (0, 0, 0)).replace("ALA A", field)
    atom = read_models(write(tmp_path, line))[0][0]
    assert (atom.residue_name, atom.chain) == (residue, chain)


def test_gzip_is_the_same(tmp_path):
    text = trace_lines(["ALA"] * 4)
    (tmp_path / "model.pdb.gz").write_bytes(gzip.compress(text.encode()))
    assert read_models(tmp_path / "model.pdb.gz") == read_models(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdb", b"", "no atoms"),
        ("a.cif", b"", "no atoms"),
        ("a.cif", b"nonsense", "cannot be read as mmCIF"),
        ("a.pdb.gz", b"nonsense", "cannot be"),
        ("a.pdb.gz", gzip.compress(b"ATOM" * 99)[:-12], "cannot be"),
        ("a.xyz", b"", "expected .pdb"),
        ("a.pdb", b"ATOM\n", "line 1: the residue number"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_models(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    for name in ("no.pdb", "no.cif"):
        with pytest.raises(InputError, match=name):
            read_models(tmp_path / name)


@pytest.mark.parametrize("bad", ["     nan", "     inf", "  xx.xxx", "        "])
def test_coordinates_that_are_no_numbers_are_named_with_their_line(tmp_path, bad):
    lines = trace_lines(["ALA"] * 3).splitlines(keepends=True)
    lines[1] = lines[1][:38] + bad + lines[1][46:]
    with pytest.raises(InputError, match=r"line 2: y is"):
        read_models(write(tmp_path, "".join(lines)))


@pytest.mark.parametrize("bad", ["?", ".", "nan", "abc"])
def test_cif_coordinates_that_are_no_numbers_are_named_with_their_row(tmp_path, bad):
    rows = f"1 C CA ALA A 1 0 0 0\n2 C CA ALA A 2 3.8 {bad} 0\n"
    tags = ("id", "type_symbol", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id")
    header = "".join(f"_atom_site.{tag}\n" for tag in (*tags, "Cartn_x", "Cartn_y", "Cartn_z"))
    text = "data_x\nloop_\n" + header + rows
    with pytest.raises(InputError, match=r"row 2 of _atom_site: y is"):
        read_models(write(tmp_path, text, "model.cif"))


def test_cif_in_another_encoding_is_refused(tmp_path):
    text = "data_x\nloop_\n_atom_site.label_atom_id\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\n"
    (tmp_path / "model.cif").write_bytes((text + "C\xe5 0 0 0\n").encode("latin-1"))
    with pytest.raises(InputError, match=r"model\.cif"):
        read_models(tmp_path / "model.cif")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), name=st.sampled_from(["x.pdb", "x.cif", "x.pdb.gz", "x.cif.gz"]))
def test_random_bytes_are_parsed_or_refused(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_template(path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.integers(0, 400),
    junk=st.text(alphabet=st.characters(max_codepoint=255), min_size=1, max_size=12),
)
def test_damaged_lines_are_parsed_or_refused(tmp_path, place, junk):
    text = trace_lines(["ALA", "GLY", "SER", "TRP", "HIS"])
    path = tmp_path / "x.pdb"
    path.write_text(text[:place] + junk + text[place + len(junk) :], encoding="latin-1")
    message = None
    try:
        template = read_template(path)
        assert len(template) >= 3
        assert all(template.elements)
    except InputError as error:
        message = str(error)
    assert message is None or ("x.pdb" in message and "\n" not in message)
