"""The tables [validation] and [[callbacks]] of a configuration."""

from __future__ import annotations

import csv
import pathlib
import re
import sys

import pytest

from tests.support.command_line import run
from tff_dp.ledger import summarize
from tff_dp.runs import read_run

pytestmark = pytest.mark.heavy
PUBLIC = """
[validation]
file = "held_out.csv"
features = ["ses", "sector"]
label = "score"
"""
CALLBACKS = """
[[callbacks]]
name = "EarlyStopping"
monitor = "val_loss"
min_delta = 1e9
patience = 3

[[callbacks]]
name = "LearningRateScheduler"
schedule = "example_model:rate"

[[callbacks]]
name = "CSVLogger"
filename = "log.csv"
append = true

[[callbacks]]
name = "EndOnNaN"
"""
CLIENTS = """
[validation]
file = "held_out.csv"
kind = "clients"
client = "who"
features = ["ses", "sector"]
label = "score"
freq = 2

[validation.privacy]
rounds = 3
delta = 1e-3
max_dimension = 1
sampler = { type = "FullParticipation" }
mechanism = { type = "GaussianMechanism", clip_norm = 1.0, noise_multiplier = 2.0 }
metrics = [{ type = "PrivateMetric", name = "loss", clip_value = 4.0, budget_fraction = 0.9 }]
"""


@pytest.fixture
def here(tmp_path, monkeypatch, tff, capsys):
    """Returns an empty folder with the example, whose module has a schedule as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert run(capsys, "train", "--example", "demo")[0] == 0
    with open("demo/example_model.py", "a") as file:
        file.write("\n\ndef rate(epoch):\n    return 1.0 / (epoch + 1)\n")
    held_out = pathlib.Path("demo/held_out.csv").read_text().splitlines()
    head = held_out[0].replace("school", "who")  # other ids than those of the training
    rows = [f"v{row}" for row in held_out[1:]]
    pathlib.Path("demo/held_out.csv").write_text("\n".join([head, *rows]) + "\n")
    yield tmp_path
    sys.modules.pop("example_model", None)


def with_tables(*tables: str, changes: tuple[tuple[str, str], ...] = ()) -> str:
    """Adds tables to the example, and returns the text of the file."""
    path = pathlib.Path("demo/train.toml")
    text = "".join([path.read_text(), *tables])
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return text


@pytest.mark.slow
def test_a_run_is_validated_and_its_callbacks_go_on_when_it_is_resumed(here, capsys):
    with_tables(PUBLIC, CALLBACKS)
    code, _, err = run(capsys, "train", "demo/train.toml", "--set", "train.rounds=2")
    assert code == 0, err
    history = read_run("demo/run").records
    assert all(record["validation_source"] == "data" for record in history)
    # The best is that of round 1, and rounds 2 to 4 are its patience.
    code, _, err = run(capsys, "resume", "demo/run", "--rounds", "5")
    assert code == 0, err
    summary = read_run("demo/run")
    assert summary.round_number == 4
    assert "EarlyStopping" in summary.result["stopped"]
    rows = list(csv.DictReader(pathlib.Path("demo/log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    found = [record["validation"]["val_loss"] for record in summary.records]
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(found)


@pytest.mark.slow
def test_held_out_clients_are_validated_under_a_plan_of_their_own(here, capsys):
    with_tables(CLIENTS)
    code, out, err = run(capsys, "train", "demo/train.toml", "--set", "train.rounds=3")
    assert code == 0, err
    assert "for the validation clients, epsilon" in out
    code, _, err = run(capsys, "resume", "demo/run", "--rounds", "5")
    assert code == 0, err
    history = read_run("demo/run").records
    validated = [each["round_number"] for each in history if each["validation_private"]]
    assert validated == [2, 4]
    assert summarize("demo/run/validation.jsonl").charges.rounds == 2


def test_all_mistakes_of_both_tables_are_reported_at_once(here, capsys):
    text = with_tables(
        PUBLIC,
        CALLBACKS,
        changes=(
            ('"held_out.csv"\nfeatures = ["ses", "sector"]', '"held_out.csv"\nfeatures = ["sess"]'),
            ('"EarlyStopping"', '"EarlyStoping"'),
            ("append = true", "apend = true"),
            ("example_model:rate", "example_model:rates"),
            ('"EndOnNaN"', '"BackupAndRestore"\nbackup_dir = "b"'),
            ("batch_size = 8", "batch_size = 0"),
        ),
    )
    more = '\n[[callbacks]]\nmonitor = "loss"\n'
    pathlib.Path("demo/train.toml").write_text(text + more)
    lines = (text + more).splitlines()
    code, out, err = run(capsys, "train", "demo/train.toml", "--check")
    assert (code, out) == (2, "")
    for key, part in (
        ("train.batch_size", "batch_size = 0"),
        ("callbacks.0.name", "EarlyStoping"),
        ("callbacks.2.apend", "apend"),
        ("callbacks.1.schedule", "example_model:rates"),
        ("callbacks.3.name", "BackupAndRestore"),
    ):
        number = next(place for place, line in enumerate(lines, 1) if part in line)
        assert f"demo/train.toml:{number}: {key}" in err, (key, err)
    assert "Did you mean EarlyStopping?" in err
    assert "'sess'" in err
    assert re.search(r"callbacks\.4\.name: missing: expected a class of Keras", err)
    assert not pathlib.Path("demo/run").exists()


@pytest.mark.parametrize(
    ("tables", "changes", "message"),
    [
        ((PUBLIC + 'kind = "private"\n',), (), 'expected "public" or "clients"'),
        ((PUBLIC + "freq = 0\n",), (), "validation.freq=0 is outside its bound"),
        (
            (PUBLIC + "privacy = { rounds = 3 }\n",),
            (),
            "validation.privacy: is for held-out clients",
        ),
        (
            (PUBLIC.replace("held_out", "../demo/clients"),),
            (),
            'validation.kind="public" (the default), and these are the data of [data]',
        ),
        ((CLIENTS,), (('client = "who"\n', ""),), "validation.client: missing"),
        (
            (CLIENTS.partition("rounds = 3")[0] + 'type = "NoPrivacy"\n',),
            (),
            'validation.privacy: type="NoPrivacy": expected a plan',
        ),
        (
            (CALLBACKS,),
            (('"EndOnNaN"', '"example_model:rate"'),),
            "callbacks.3.name='example_model:rate' is <function rate",
        ),
        ((CLIENTS,), (("clip_value = 4.0", "clip_value = -4.0"),), "clip_value=-4.0"),
        ((CALLBACKS,), (), "callbacks holds EarlyStopping with monitor='val_loss', which no round"),
        ((CLIENTS,), (("freq = 2", "freq = 1"),), "validation_privacy covers 3 evaluations"),
    ],
    ids=[
        "kind", "freq", "public plan", "not public", "no client", "no plan", "function", "plan",
        "monitor", "too few",
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_place_before_anything_is_charged(
    here, capsys, tables, changes, message
):
    with_tables(*tables, changes=changes)
    code, _, err = run(capsys, "train", "demo/train.toml")
    assert code in (2, 3)
    assert message in err, err
    assert "demo/train.toml:" in err
    assert not pathlib.Path("demo/run/ledger.jsonl").exists() or not (
        summarize("demo/run/ledger.jsonl").charges.rounds
    )
