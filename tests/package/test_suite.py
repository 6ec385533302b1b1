"""Rules of the tests themselves: what they share is in tests/support, and what is named exists."""

from __future__ import annotations

import re

import tff_dp
from tests.support.paths import ROOT

SOURCES = sorted((ROOT / "tests").rglob("*.py"))
# Also within the source of a program that a test starts, whose lines may be indented.
IMPORT = re.compile(
    r"^\s*(?:from|import)\s+tests\.(?:\w+\.)*test_\w+|^\s*from\s+tests\.\w+\s+import\s+test_",
    re.MULTILINE,
)


def imports_of_test_modules(source: str) -> list[str]:
    return [found.group().strip() for found in IMPORT.finditer(source)]


def test_no_test_module_is_imported_by_another():
    found = {
        str(path.relative_to(ROOT)): imports
        for path in SOURCES
        if (imports := imports_of_test_modules(path.read_text(encoding="utf-8")))
    }
    assert found == {}, "what several test modules use belongs in tests/support"


def test_an_import_of_a_test_module_is_seen_wherever_it_is_written():
    folder, module = "tests.execution", "test_stock"
    for source in (
        f"from {folder}.{module} import workers",
        f"import {folder}.{module}",
        f"from {folder} import {module}",
        f'PROGRAM = """\nimport sys\n    from {folder}.{module} import workers\n"""',
    ):
        assert len(imports_of_test_modules(source)) == 1, source
    assert imports_of_test_modules("from tests.support.workers import workers") == []


def test_a_planted_defect_finds_no_kept_process_and_leaves_none(tff, monkeypatch):
    from tff_dp import aggregation, noise
    from tff_dp.aggregation import build
    from tff_dp.training import kept_processes, run

    def kept_after(change) -> bool:
        kept_processes._kept["a run's"] = "process", 0
        change(monkeypatch)
        with monkeypatch.context() as inner:
            change(inner)
        return bool(kept_processes._kept)

    monkeypatch.setattr(kept_processes, "_kept", type(kept_processes._kept)())
    assert kept_after(lambda patch: patch.setattr(run, "_FUSED", 2))
    assert kept_after(lambda patch: patch.setattr(run.Run, "step", None))
    assert kept_after(lambda patch: patch.setenv("NO_SUCH_VARIABLE", "1"))
    assert not kept_after(lambda patch: patch.setattr(noise, "gaussian", None))
    assert not kept_after(lambda patch: patch.setattr("tff_dp.noise.gaussian", None))
    assert not kept_after(lambda patch: patch.setattr(tff_dp.GaussianMechanism, "with_noise", None))
    assert not kept_after(lambda patch: patch.setitem(build._BUILDERS, aggregation, None))
    assert not kept_after(lambda patch: patch.setattr(kept_processes, "compose", None))
    with monkeypatch.context() as inner:
        inner.setattr(noise, "laplace", None)
        kept_processes._kept["a defect's"] = "process", 0
    assert not kept_processes._kept


def test_the_test_files_that_are_named_anywhere_exist():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *SOURCES, ROOT / ".ci/every_interpreter"]
    named = {
        (str(page.relative_to(ROOT)), name)
        for page in pages
        if page.name != "CHANGELOG.md"  # which tells of what was
        for name in re.findall(r"\btests/\w[\w/]*\.py\b", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert {(page, name) for page, name in named if not (ROOT / name).is_file()} == set()
