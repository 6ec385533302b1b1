"""The site of the documentation: `./run docs` builds it, and what is wrong in it ends the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from tests.support.paths import ROOT

BUILDER = ROOT / ".venv-docs" / "bin" / "mkdocs"
AS_THEY_ARE = [
    "tff_dp",
    "experiments",
    "benchmarks",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]

# What is planted, by page: the text that is replaced, what replaces it, and the warning.
PLANTED = {
    "runs.md": [
        ("# Run folders", "[gone](nothing.md)\n\n# Run folders", r"'nothing\.md', but"),
        ("With `run_dir=`", "[gone](privacy.md#nothing) `run_dir=`", r"'privacy\.md#nothing'"),
        ("the last one", "[gone](../nothing.py)", r"'\.\./nothing\.py', but"),
    ],
    "api/extending.md": [
        ("noise.laplace.laplace\n", "noise.laplace\n", r"tff_dp\.noise\.laplace is a module"),
    ],
    "api/training.md": [("::: tff_dp.fit\n", "", r"tff_dp\.fit is public, and the API reference")],
}


@pytest.mark.heavy
@pytest.mark.skipif(not BUILDER.exists(), reason="`./run docs` has made no .venv-docs here")
def test_a_link_that_leads_nowhere_and_a_name_without_reference_end_the_build(tmp_path):
    for name in AS_THEY_ARE:
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    expected = [r'not included in the "nav" configuration:\n +- nowhere\.md']
    (tmp_path / "docs" / "nowhere.md").write_text("# A page that nothing leads to\n")
    for page, changes in PLANTED.items():
        path = tmp_path / "docs" / page
        text = path.read_text(encoding="utf-8")
        for old, new, warning in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
            expected.append(warning)
        path.write_text(text, encoding="utf-8")
    built = subprocess.run(
        [BUILDER, "build", "--strict"],
        cwd=tmp_path,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode != 0
    for warning in expected:
        assert re.search(warning, built.stderr), (warning, built.stderr)


def test_the_lock_of_the_site_has_hashes_and_no_address():
    text = (ROOT / "requirements-docs.lock").read_text(encoding="utf-8")
    names = re.findall(r"^(\S+)==\S+", text, re.M)
    assert {"mkdocs", "mkdocs-material", "mkdocstrings-python"} <= set(names)
    assert len(re.findall(r"^\S+==[^\n]+\\\n    --hash=sha256:", text, re.M)) == len(names)
    assert "://" not in text
