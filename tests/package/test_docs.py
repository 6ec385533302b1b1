"""The pages: every Python block runs as it stands, and every command of ours parses."""

from __future__ import annotations

import argparse
import difflib
import inspect
import itertools
import pathlib
import re
import shlex
import tomllib
from typing import Any, NamedTuple

import pytest

import tff_dp
from benchmarks import gpu
from experiments import __main__ as experiments
from experiments import _settings
from tests.support.paths import ROOT
from tests.support.tables import slow
from tff_dp import cli
from tff_dp.errors import ArgumentError

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "experiments" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LANGUAGES = {"python", "sh", "text", "toml", "json"}
NOT_RUN = "# Not run in the tests: "
FOREIGN = {"git", "pip", "uv", "cd", "ray"}  # commands of others, in the pages' shell blocks
OWN = {
    "quickstart",
    "test",
    "fuzz",
    "lint",
    "docs",
    "cluster-demo",
    "lock",
    "interpreters",
    "help",
}  # words of ./run
INSIDE = {
    "python",
    "tff-dp",
    "ruff",
    "pytest",
    "mypy",
    "CMD",
}  # what ./run finds in the environment


ON_DEVICE = ["python", "-m", "benchmarks.gpu"]


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    text: str


def blocks(text: str) -> list[Block]:
    found, inside = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("```"):
            if inside is not None:
                inside[2].append(line)
        elif inside is None:
            inside = (line.strip().removeprefix("```").strip(), number + 1, [])
        else:
            found.append(Block(inside[0], inside[1], "\n".join(inside[2])))
            inside = None
    assert inside is None, "a block has no end"
    return found


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def wrong_blocks(text: str) -> list[str]:
    """Returns what keeps blocks from being run without anybody's noticing."""
    wrong = []
    for block in blocks(text):
        if block.language not in LANGUAGES:
            wrong.append(f"line {block.line}: language {block.language!r}")
        if block.language == "text" and re.search(
            r"^(import|from) |tff_dp\.\w+\(", block.text, re.M
        ):
            wrong.append(f"line {block.line}: Python that is marked as text")
        reason = block.text.removeprefix(NOT_RUN).splitlines()[:1]
        if block.text.startswith(NOT_RUN) and len(" ".join(reason).split()) < 3:
            wrong.append(f"line {block.line}: not run, and without a reason")
    return wrong


def run_blocks(text: str, page: str = "page") -> int:
    """Runs a page's Python blocks one after another, in one namespace; returns how many were run."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks(text):
        if block.language != "python" or block.text.startswith(NOT_RUN):
            continue
        lines = "\n" * (block.line - 1)  # so that errors name the page's line
        exec(compile(lines + block.text, page, "exec", dont_inherit=True), namespace)
        count += 1
    return count


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_language_and_what_is_not_run_a_reason(page):
    assert wrong_blocks(page.read_text(encoding="utf-8")) == []


SLOW = (
    *(
        "keras.md",
        "execution.md",
        "privacy.md",
        "runs.md",
        "coming-from.md",
        "fit.md",
        "exported.md",
    ),
    *("mechanisms.md", "pitfalls.md", "tff.md", "cluster.md"),
)
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "page",
    # These train a model for most of their sections.
    [slow(page) if page.name in SLOW else page for page in WITH_PYTHON],
    ids=name,
)
def test_the_python_blocks_of_a_page_run_as_they_stand(page, tff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_blocks(page.read_text(encoding="utf-8"), name(page)) > 0


def test_a_block_that_fails_and_one_that_is_hidden_are_found(tmp_path):
    ran = run_blocks("```python\na = 1\n```\nand\n```python\nassert a == 1\n```\n")
    assert ran == 2
    with pytest.raises(NameError, match="frame"):
        run_blocks("```python\nframe\n```\n")
    assert run_blocks(f"```python\n{NOT_RUN}it needs two machines\nframe\n```\n") == 0
    for text, reason in (
        (f"```python\n{NOT_RUN}\nframe\n```\n", "without a reason"),
        (f"```python\n{NOT_RUN}no\nframe\n```\n", "without a reason"),
        ("```text\nimport tff_dp\n```\n", "marked as text"),
        ("```text\nresult = tff_dp.fit(model)\n```\n", "marked as text"),
        ("```py\nframe\n```\n", "language 'py'"),
        ("```\nframe\n```\n", "language ''"),
    ):
        (wrong,) = wrong_blocks(text)
        assert reason in wrong


# --- Commands ----------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """Returns the commands of the shell blocks, without comments and continuations."""
    found = []
    for block in blocks(text):
        if block.language == "sh":
            lines = block.text.replace("\\\n", " ").splitlines()
            found += [
                part for line in lines for part in re.split(r"&&|;", re.sub(r"\s#.*", "", line))
            ]
    return [command.strip() for command in found if command.strip()]


def inline_commands(text: str) -> list[str]:
    return re.findall(r"`(\./run [^`]*|tff-dp [^`]*)`", text)


def check_command(command: str) -> None:
    """Asserts that a command of ours is one, and that its options are known and have good values."""
    words = shlex.split(command)
    while words and "=" in words[0]:  # variables of the environment
        words = words[1:]
    if words[0] in FOREIGN or words[0] == ".ci/run":
        return
    if words[0] == "./run":
        words = words[1:]
    else:  # the environment's own, or a Python with JAX, on a machine that has no other
        assert words[0] == "tff-dp" or words[:3] == ON_DEVICE, command
    assert words[0] in OWN | INSIDE, command
    if words[0] == "tff-dp":
        options = parsed(cli._parser(), words[1:])
        if options.command in ("epsilon", "calibrate", "selftest"):
            cli.check(options)
    elif words[:3] == ["python", "-m", "experiments"] or words[0] == "quickstart":
        arguments = words[3:] if words[0] == "python" else ["linear_regression", *words[1:]]
        options = parsed(experiments.parser(), arguments)
        config = None  # a name in an example
        if options.name is not None:
            _settings.load(options.name, config, options.overrides, smoke=options.smoke)
    elif words[:3] == ON_DEVICE:
        parsed(gpu.parser(), words[3:])
    elif words[0] == "python" and not words[1].startswith("-"):
        assert (ROOT / words[1]).is_file(), command


def parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    try:
        return parser.parse_args(arguments)
    except SystemExit as end:
        raise AssertionError(f"{parser.prog} {shlex.join(arguments)} does not parse") from end


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_shell_block_is_one_and_parses(page):
    for command in commands(page.read_text(encoding="utf-8")):
        check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "./run tff-dp epsilon --noise 1 --sampling-rat 0.1 --round 5 --dleta 1e-5",
        "./run tff-dp epsilon --noise-multiplier 1",
        "./run quickstrat",
        "./run quickstart --set tutorial.nothing=3",
        "./run python benchmarks/nothing.py",
        "python -m benchmarks.gpu run",
        "python -m benchmarks.noise",
        "rm -rf results",
    ],
)
def test_a_command_that_does_not_work_is_found(command, capsys):
    with pytest.raises((AssertionError, ArgumentError)):
        check_command(command)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_in_the_text_and_their_options_are_known(page):
    known = {"--version", "--help", "-h", "-m", "--slow", "--full"}
    subcommands = {}
    for action in cli._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            subcommands = dict(action.choices)
    for command in inline_commands(page.read_text(encoding="utf-8")):
        words = command.split()[1:] if command.startswith("./run") else command.split()
        assert words[0] in OWN | INSIDE | {"...", "X"}, command
        if words[0] == "tff-dp" and len(words) > 1:
            options = known | set(subcommands[words[1]]._option_string_actions)
            assert set(re.findall(r"--[a-z-]+", command)) <= options, command


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)?(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
        if target and "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_accounting_commands_of_the_first_page_run(capsys):
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    ours = [shlex.split(c)[2:] for c in commands(text) if c.startswith("./run tff-dp")]
    cheap = [words for words in ours if words[0] in ("epsilon", "calibrate")]
    assert len(cheap) >= 2
    for words in cheap:
        assert cli.main(words) == 0
        assert "to report" in capsys.readouterr().out


# --- What pages list ---------------------------------------------------------------------------------


def rows(text: str, first: str) -> dict[str, list[str]]:
    """Returns the rows of the table whose first heading is given, by the names in their first cell."""
    found, inside = {}, False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0] == first:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not set(line) <= set("|-"):
            for names in re.findall(r"`([^`]+)`", cells[0]):
                found[names] = cells[1:]
    return found


def test_the_page_on_fit_lists_its_arguments_with_their_defaults():
    text = (ROOT / "docs" / "fit.md").read_text(encoding="utf-8")
    listed = rows(text, "argument")
    parameters = inspect.signature(tff_dp.fit).parameters
    assert list(listed) == list(parameters)
    for argument, parameter in parameters.items():
        default = parameter.default
        expected = "required" if default is inspect.Parameter.empty else f"`{default!r}`"
        expected = "none" if default in (None, ()) else expected
        assert listed[argument][1] == expected, argument


def test_the_page_on_fit_lists_what_a_result_has():
    text = (ROOT / "docs" / "fit.md").read_text(encoding="utf-8")
    for listed in rows(text, "attribute"):
        assert hasattr(tff_dp.FitResult, listed.split("(")[0]) or (
            listed in tff_dp.FitResult.__dataclass_fields__
        ), listed
    for source in re.findall(r"`data\.(\w+)", text):
        assert source in tff_dp.data.__all__


def test_the_page_on_experiments_lists_the_options_and_the_settings():
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    options = {flag for listed in rows(text, "option") for flag in re.findall(r"--\w+", listed)}
    known = {flag for action in experiments.parser()._actions for flag in action.option_strings}
    assert options == known - {"-h", "--help"}
    listed = rows(text, "key")
    own = tomllib.loads((ROOT / "experiments" / "linear_regression.toml").read_text())
    for section, table in own.items():
        for key in table if section != _settings.SMOKE else ():
            assert f"{section}.{key}" in listed or f"*.{key}" in listed, key


def test_the_experiment_of_the_page_is_one(tmp_path, monkeypatch):
    toml, python = (
        next(b.text for b in blocks(text) if b.language == language)
        for text in [(ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")]
        for language in ("toml", "python")
    )
    (tmp_path / "coin.toml").write_text(toml)
    monkeypatch.setattr(_settings, "FOLDER", tmp_path)
    settings = _settings.load("coin", None, ["coin.tosses=10"])
    namespace: dict[str, Any] = {}
    exec(python, namespace)
    assert namespace["main"](settings, tmp_path / "out") == 0
    assert 0 <= int((tmp_path / "out" / "heads.txt").read_text()) <= 10


@pytest.mark.heavy
def test_statistics_of_adapt_go_into_the_model_without_noise_and_constants_do_instead(tff):
    # What docs/privacy.md says of what is computed from the data before training.
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, size=[200, 2]).astype("float32")
    clients = tff_dp.data.iid(x, x[:, :1], clients=20, seed=1)
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=0.1, noise_multiplier=1.0),
        population=20,
        cohort=10,
        rounds=1,
        delta=1e-3,
    )

    def trained(normalization):
        layers = [keras.layers.Input([2]), normalization, keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        return tff_dp.fit(model, clients, loss="mse", privacy=plan).model

    adapted = keras.layers.Normalization()
    adapted.adapt(x)
    mean = np.ravel(trained(adapted).layers[0].mean)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-5)  # the plan's noise moves it nowhere
    known = trained(keras.layers.Normalization(mean=[3.0, 3.0], variance=[4.0, 4.0]))
    np.testing.assert_array_equal(np.ravel(known.layers[0].mean), [3.0, 3.0])


# --- The tutorial ------------------------------------------------------------------------------------


def test_the_steps_of_the_tutorial_change_at_most_eight_lines():
    text = (ROOT / "docs" / "keras.md").read_text(encoding="utf-8")
    tutorial = text.partition("## Tutorial\n")[2].partition("\n## ")[0]
    steps = [block.text.splitlines() for block in blocks(tutorial)]
    assert len(steps) == 4
    assert "model.fit(" in "\n".join(steps[0])
    assert "tff_dp" not in "\n".join(steps[0])
    steps[3] = steps[2] + steps[3]  # the fourth adds to the third
    changed = [
        line
        for one, two in itertools.pairwise(steps)
        for line in difflib.ndiff(one, two)
        if line.startswith("+ ")
    ]
    assert 0 < len(changed) <= 8, changed
