"""Configurations of runs: where a value stands, and what is wrong with it, all at once."""

from __future__ import annotations

import pathlib
import random
import sys
import tomllib

import numpy as np
import pytest

import tff_dp
from tests.support.paths import ROOT
from tests.support.source import PACKAGE
from tff_dp.algorithms import Algorithm
from tff_dp.cli import example
from tff_dp.cli.configs import Mistakes, clients_of, import_classes, read_source, restored_source
from tff_dp.cli.configs.inputs import called, imported
from tff_dp.cli.configs.objects import build
from tff_dp.cli.configs.source import lines_of
from tff_dp.cli.configs.tables import DataTable, ModelTable, TrainTable, ValidationTable, table
from tff_dp.errors import AccountingError, ArgumentError

TEXT = '''\
# a comment
top = 1

[model]  # a table
build = "a:b"
"odd key" = """
several = lines
[not.a.table]
"""
args.deep.er = 2

[[list]]
x = 1
[[list]]
y = [
  1,   # comment
  { z = 2 },
]

[privacy.mechanism]
type = "GaussianMechanism"
inline = { a = 1, b = { c = 2 } }
'''


def test_every_key_has_the_line_of_its_statement():
    found = lines_of(TEXT)
    assert found == {
        ("top",): 2,
        ("model",): 4,
        ("model", "build"): 5,
        ("model", "odd key"): 6,
        ("model", "args"): 10,
        ("model", "args", "deep"): 10,
        ("model", "args", "deep", "er"): 10,
        ("list",): 12,
        ("list", "0"): 12,
        ("list", "0", "x"): 13,
        ("list", "1"): 14,
        ("list", "1", "y"): 15,
        ("list", "1", "y", "0"): 15,
        ("list", "1", "y", "1"): 15,
        ("list", "1", "y", "1", "z"): 15,
        ("privacy",): 20,
        ("privacy", "mechanism"): 20,
        ("privacy", "mechanism", "type"): 21,
        ("privacy", "mechanism", "inline"): 22,
        ("privacy", "mechanism", "inline", "a"): 22,
        ("privacy", "mechanism", "inline", "b"): 22,
        ("privacy", "mechanism", "inline", "b", "c"): 22,
    }


def test_lines_follow_when_lines_are_put_before_them():
    drawn = random.Random(0)
    lines = example.CONFIG.splitlines(keepends=True)
    before = lines_of(example.CONFIG)
    for _ in range(20):
        place = drawn.randrange(len(lines) + 1)
        moved = lines_of("".join([*lines[:place], "\n# new\n", *lines[place:]]))
        assert moved == {key: line + 2 * (line > place) for key, line in before.items()}


def source(tmp_path: pathlib.Path, text: str, *overrides: str):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return read_source(str(path), overrides)


def test_an_override_replaces_a_value_and_is_named_as_its_origin(tmp_path):
    found = source(tmp_path, TEXT, "top=[1, 2]", "new.table.key='v'", "list=3")
    assert found.values["top"] == [1, 2]
    assert found.values["new"]["table"]["key"] == "v"
    assert found.where(("top",)) == "--set top=[1, 2]"
    assert found.where(("new", "table", "key")) == "--set new.table.key='v'"
    assert found.where(("list", "1", "y")) == "--set list=3"
    assert found.where(("model", "unknown")).endswith("c.toml:4")  # the table that it would be in
    assert found.where(("nowhere",)).endswith("c.toml")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.rounds", "sets nothing: expected key.path=value"),
        ("=3", "sets nothing"),
        ("a..b=3", "sets nothing"),
        ("loss=mse", "has no TOML value"),
        ("top.deeper=3", "sets a key of 'top', which is no table"),
    ],
)
def test_an_override_that_sets_nothing_is_refused(tmp_path, override, reason):
    with pytest.raises(ArgumentError, match=reason):
        source(tmp_path, TEXT, override)


def test_a_file_that_cannot_be_read_is_refused_with_its_line(tmp_path):
    with pytest.raises(ArgumentError, match=r"is not TOML: .*line 2.* Quote texts"):
        source(tmp_path, "a = 1\nb = mse\n")
    with pytest.raises(ArgumentError, match=r"cannot be read: .*--example FOLDER"):
        read_source(str(tmp_path / "none.toml"), [])
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ArgumentError, match="cannot be read"):
        read_source(str(tmp_path / "bytes.toml"), [])


def mistakes_of(values: dict) -> Mistakes:
    return Mistakes(restored_source(values, "c.toml", pathlib.Path("/nowhere")))


def texts(mistakes: Mistakes) -> list[str]:
    try:
        mistakes.raise_all()
    except ArgumentError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []


def test_a_table_is_checked_by_its_fields():
    mistakes = mistakes_of({})
    found = table(
        TrainTable,
        {"run_dir": "r", "rounds": 3, "max_epsilon": 2, "shuffle": False},
        ("train",),
        mistakes,
    )
    assert texts(mistakes) == []
    assert found.arguments() == {"rounds": 3, "max_epsilon": 2.0, "shuffle": False}
    wrong = {
        "rounds": 0,
        "batch_size": 2.5,
        "epochs": "3",
        "shuffle": 1,
        "max_epsilon": 200.0,
        "sede": 3,
    }
    assert table(TrainTable, wrong, ("train",), mistakes) is None
    found = texts(mistakes)
    assert len(found) == 7
    assert any(
        "train.rounds=0 is outside its bound: expected a whole number in [1" in t for t in found
    )
    assert any("train.shuffle=1 is outside its bound: expected true or false" in t for t in found)
    assert any("train.sede: unknown key. Did you mean seed?" in t for t in found)
    assert any("train.run_dir: missing: expected a text in quotes" in t for t in found)
    assert all(text.startswith("c.toml: ") for text in found)


def test_tables_of_other_types_are_refused():
    mistakes = mistakes_of({})
    table(ModelTable, {"build": 3, "metrics": "mae", "args": [1]}, ("model",), mistakes)
    table(DataTable, {"features": [1]}, ("data",), mistakes)
    assert len(texts(mistakes)) == 4


def test_the_fields_of_a_table_are_explained_and_are_those_of_fit():
    text = (PACKAGE / "training" / "fitting.py").read_text()
    for name in TrainTable.__dataclass_fields__:
        assert f"\n    {name}:" in text or name in ("run_dir", "device"), name
        assert f"\n      {name}: " in (TrainTable.__doc__ or ""), name


def test_objects_of_tables_are_those_of_the_constructors():
    values = {
        "rounds": 10,
        "delta": 1e-4,
        "population": 1000,
        "mechanism": {"type": "GaussianMechanism", "clip_norm": 1, "noise_multiplier": 2.0},
        "sampler": {"type": "FixedSizeSampler", "size": 20},
        "metrics": [{"name": "loss", "clip_value": 3.0}],
    }
    mistakes = mistakes_of({})
    plan = build(values, tff_dp.PrivacyPlan, ("p",), mistakes, default=tff_dp.PrivacyPlan)
    assert texts(mistakes) == []
    assert plan == tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1, noise_multiplier=2.0),
        population=1000,
        sampler=tff_dp.FixedSizeSampler(size=20),
        rounds=10,
        delta=1e-4,
        metrics=(tff_dp.PrivateMetric(name="loss", clip_value=3.0),),
    )
    sgd = {"type": "SGD", "learning_rate": 0.1}
    kind = {"type": "FedOpt", "client_optimizer": sgd, "server_optimizer": sgd}
    found = build(kind, Algorithm, ("algorithm",), mistakes)
    own = tff_dp.SGD(learning_rate=0.1)
    assert found == tff_dp.FedOpt(client_optimizer=own, server_optimizer=own)


def test_all_mistakes_of_an_object_are_found_at_once():
    values = {
        "rounds": 0,
        "delta": 2.0,
        "cohort": -1,
        "population": 1000,
        "adjacency": "far",
        "mechanism": {"type": "AdaptiveGaussianMechanism", "target_quantile": 3, "clip_norm": 1},
        "metrics": [{"type": "PrivateMetric", "name": "loss", "clip_value": -1}],
    }
    mistakes = mistakes_of({})
    assert build(values, tff_dp.PrivacyPlan, ("p",), mistakes, default=tff_dp.PrivacyPlan) is None
    found = texts(mistakes)
    for part in (
        "p.rounds=0 is outside",
        "p.delta=2.0 is outside",
        "p.cohort=-1 is outside",
        "p.adjacency='far' is outside",
        "p.mechanism.target_quantile=3 is outside",
        "p.mechanism.clip_norm: unknown key. Did you mean",
        "p.mechanism.noise_multiplier: missing",
        "p.metrics.0.clip_value=-1 is outside",
    ):
        assert sum(part in text for text in found) == 1, (part, found)
    assert len(found) == 8


def test_unknown_types_are_refused_with_those_that_are_known():
    mistakes = mistakes_of({})
    for name in ("Nothing", "GaussianMechanism", 3, "no_such_module:Class", "tff_dp:data"):
        assert build({"type": name}, Algorithm, ("a", str(name)), mistakes) is None
    assert build({}, Algorithm, ("b",), mistakes) is None
    assert build(3, Algorithm, ("c",), mistakes) is None
    assert len(texts(mistakes)) == 7


def test_a_field_takes_objects_of_its_own_kind_alone():
    mistakes = mistakes_of({})
    values = {
        "mechanism": {"type": "PoissonSampler"},
        "sampler": {"type": "Sampler"},
        "metrics": [{"type": "SGD"}],
    }
    build(values, tff_dp.PrivacyPlan, ("p",), mistakes, default=tff_dp.PrivacyPlan)
    found = texts(mistakes)
    for part in (
        "p.mechanism.type='PoissonSampler' is unknown here: expected one of Adaptive",
        "p.sampler.type='Sampler' is unknown here: expected one of",
        "p.metrics.0.type='SGD' is unknown here: expected one of PrivateMetric, or",
    ):
        assert any(part in text for text in found), (part, found)
    assert not any("NoPrivacy" in text for text in found)


def test_only_refused_accounting_is_a_refusal():
    values = {
        "rounds": 5,
        "delta": 1e-4,
        "population": 1000,
        "sampler": {"type": "FixedSizeSampler", "size": 20},
        "adjacency": "add-or-remove-one",
        "mechanism": {"type": "GaussianMechanism", "clip_norm": 1, "noise_multiplier": 2.0},
    }
    mistakes = mistakes_of({})
    build(values, tff_dp.PrivacyPlan, ("p",), mistakes, default=tff_dp.PrivacyPlan)
    with pytest.raises(AccountingError, match=r"p\.adjacency='add-or-remove-one' has no valid"):
        mistakes.raise_all()
    mistakes.add(("q",), "wrong")
    with pytest.raises(ArgumentError) as caught:
        mistakes.raise_all()
    assert not isinstance(caught.value, AccountingError)


# --- Data and functions ------------------------------------------------------------------------------


def columns(**changes) -> dict:
    return {"client": "who", "features": ["a", "b"], "label": "y", **changes}


def clients_in(folder: pathlib.Path, values: dict):
    mistakes = Mistakes(restored_source({"data": values}, "c.toml", folder))
    return clients_of("data", mistakes), texts(mistakes)


def test_clients_of_a_csv_file_keep_their_ids_as_they_stand(tmp_path):
    (tmp_path / "d.csv").write_text("who,a,b,y\n007,1,2,0\n7,3,4,1\n007,5,6,1\n")
    clients, wrong = clients_in(tmp_path, {"file": "d.csv", **columns(label_dtype="int32")})
    assert wrong == []
    assert clients.ids == ("007", "7")
    assert clients.sizes.tolist() == [2, 1]
    assert clients.pooled()[0].tolist() == [[1, 2], [5, 6], [3, 4]]
    assert clients.pooled()[1].dtype == np.int32


def test_clients_of_an_npz_file(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    np.savez(tmp_path / "d.npz", who=[1, 2, 1, 2], x=x, a=x[:, 0, 0], b=x[:, 1, 1], y=[0, 1, 2, 3])
    clients, wrong = clients_in(tmp_path, {"file": "d.npz", **columns(features=["x"])})
    assert wrong == []
    assert clients.pooled()[0].shape == (4, 3, 2)
    clients, wrong = clients_in(tmp_path, {"file": "d.npz", **columns()})
    assert wrong == []
    assert clients.pooled()[0].shape == (4, 2)
    _, wrong = clients_in(tmp_path, {"file": "d.npz", **columns(label="none")})
    assert "data.label='none' is no array of the file: expected one of who" in wrong[0]


def test_parquet_files_are_read_or_the_package_is_named(tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        (tmp_path / "d.parquet").write_bytes(b"PAR1")
        _, wrong = clients_in(tmp_path, {"file": "d.parquet", **columns()})
        assert "pip install pyarrow" in wrong[0]
        return
    import pandas

    frame = pandas.DataFrame({"who": ["u", "v"], "a": [1.0, 2.0], "b": [3.0, 4.0], "y": [0, 1]})
    frame.to_parquet(tmp_path / "d.parquet")
    clients, wrong = clients_in(tmp_path, {"file": "d.parquet", **columns()})
    assert wrong == []
    assert clients.ids == ("u", "v")


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ({}, ["c.toml: data: neither of load and file is given"]),
        ({"load": "a:b", "file": "d.csv"}, ["data: both of load and file is given"]),
        (
            {"file": "d.csv"},
            ["data.client: missing", "data.features: missing", "data.label: missing"],
        ),
        ({"file": "none.csv", **columns()}, ["cannot be read"]),
        ({"file": "d.txt", **columns()}, ["expected a name that ends in .csv, .parquet or .npz"]),
        ({"file": "d.csv", **columns(label="z")}, ["data.label='z' is not a column"]),
        ({"file": "d.csv", **columns(client="z")}, ["data.client='z' is not a column"]),
        ({"file": "d.csv", **columns(features=["a", "z"])}, ["data.features='z' is not a column"]),
        ({"file": "d.csv", **columns(features=[])}, ["data.features"]),
        ({"file": "broken.npz", **columns()}, ["cannot be read"]),
        ({"load": "os:getcwd"}, ["data.load='os:getcwd' has returned a str"]),
        ({"load": "os:getcwd", "client": "a"}, ["data.client: is for files"]),
        ({"load": "os"}, ["data.load='os' names nothing"]),
        ({"load": "os:nothing"}, ["data.load='os:nothing' is not there: the module os has"]),
        ({"load": "os:name"}, ["data.load='os:name' is 'posix': expected a function"]),
        ({"load": "no_such_module_:f"}, ["No module named 'no_such_module_'"]),
        ({"load": "os:getenv", "args": {"x": 1}}, ["has failed: TypeError"]),
    ],
)
def test_wrong_data_are_refused_with_the_key(tmp_path, values, reasons):
    (tmp_path / "d.csv").write_text("who,a,b,y\nu,1,2,0\n")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    clients, wrong = clients_in(tmp_path, values)
    assert clients is None
    for reason in reasons:
        assert any(reason in each for each in wrong), wrong


def test_functions_are_imported_from_the_folder_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "module_of_a_config.py").write_text(
        "import numpy as np\n"
        "import tff_dp\n"
        "class Own(tff_dp.FedAvg):\n"
        "    pass\n"
        "def load(n):\n"
        "    return {k: (np.ones([2, 1]), np.ones([2])) for k in range(n)}\n"
        "def fail():\n"
        "    raise KeyError('inside')\n"
    )
    values = {
        "data": {"load": "module_of_a_config:load", "args": {"n": 3}},
        "algorithm": {"type": "module_of_a_config:Own"},
    }
    mistakes = Mistakes(restored_source(values, "c.toml", tmp_path))
    import_classes(mistakes)
    assert clients_of("data", mistakes).num_clients == 3
    own = build({"type": "module_of_a_config:Own"}, Algorithm, ("algorithm",), mistakes)
    assert type(own).__name__ == "Own"
    assert texts(mistakes) == []
    assert called("module_of_a_config:fail", {}, ("model", "build"), mistakes) is None
    (wrong,) = texts(mistakes)
    assert "has failed: KeyError: 'inside'" in wrong
    assert "module_of_a_config.py:8" in wrong
    assert imported("module_of_a_config:Own", ("x",), mistakes) is type(own)


def test_the_example_is_complete_and_not_written_over_anything(tmp_path):
    folder = tmp_path / "demo"
    assert "tff-dp train" in example.write(str(folder))
    values = tomllib.loads((folder / "train.toml").read_text())
    mistakes = Mistakes(restored_source(values, "c.toml", folder))
    for name in ("data", "evaluate"):
        assert clients_of(name, mistakes).num_clients == 120
    with pytest.raises(ArgumentError, match="is not empty"):
        example.write(str(folder))
    with pytest.raises(ArgumentError, match="cannot be written"):
        example.write(str(folder / "train.toml" / "inside"))


def test_the_page_shows_the_example_as_it_is_written():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert f"```toml\n{example.CONFIG}```" in page


def test_the_page_explains_every_key():
    page = (ROOT / "docs" / "cli.md").read_text()
    for kind in (ModelTable, DataTable, TrainTable, ValidationTable):
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in page, name
