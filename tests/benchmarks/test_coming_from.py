"""Other frameworks' code on a page: which blocks are run where, and that a failing one is seen."""

from __future__ import annotations

import pytest

from benchmarks import _environments, coming_from


def test_each_program_of_the_page_has_an_environment_and_the_data():
    text = coming_from.PAGE.read_text(encoding="utf-8")
    found = coming_from.programs(text)
    assert set(found) == {"flower", "pfl", "pytorch", "diffprivlib"}
    assert text.count("# Not run in the tests: ") == len(found)
    for name, program in found.items():
        listed = _environments.ROOT / "benchmarks" / "environments" / f"{name}.txt"
        assert "==" in listed.read_text(encoding="utf-8")
        assert program.index("np.savez") < program.index("np.load")
        compile(program, name, "exec")


@pytest.mark.heavy
def test_a_program_that_fails_is_seen(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    head = "# Not run in the tests: it needs benchmarks/environments"
    page.write_text(
        "```python\nnumber = 1\n```\n"
        f"```python\n{head}/good.txt.\nprint('sum', number + 1)\n```\n"
        f"```python\n{head}/bad.txt.\nraise SystemExit('it fails')\n```\n"
    )
    monkeypatch.setattr(coming_from, "PAGE", page)
    monkeypatch.setattr(_environments, "python", lambda name: _environments.sys.executable)
    assert coming_from.main([]) == 1
    said = capsys.readouterr()
    assert "good: ran" in said.out
    assert "sum 2" in said.out
    assert "bad: FAILED" in said.out
    assert "it fails" in said.err
    assert coming_from.main(["--only", "good"]) == 0
