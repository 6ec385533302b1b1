"""What the site has beside the pages of `docs/`, and what it is held to.

Pages that stand elsewhere in the repository (`README.md`, `experiments/README.md`, ...) become pages of
the site, and links between them lead from page to page there. A link to any other file of the repository
is left as its text. After the build, every public name has to be in the API reference, and the addresses
of other sites are listed in a file, since a build asks no network. MkDocs calls the functions by their
names (https://www.mkdocs.org/user-guide/plugins/#events); under `--strict` each warning ends the build.
"""

from __future__ import annotations

import ast
import logging
import pathlib
import posixpath
import re
import zlib
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File

_log = logging.getLogger("mkdocs.hooks.tff_dp")
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/README.md": "results.md",
    "benchmarks/README.md": "benchmarks.md",
}
_IMAGES = {"experiments/results": "results"}  # folders
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1[^\n]*$", re.M | re.S)

# --- Pages from elsewhere ------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and images that stand outside of `docs/`."""
    for source, uri in _ELSEWHERE.items():
        if (_ROOT / source).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(_ROOT / source)))
    for folder, under in _IMAGES.items():
        for path in sorted((_ROOT / folder).glob("*.png")):
            uri = f"{under}/{path.name}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    del config
    uri = page.file.src_uri
    origin = next((source for source, other in _ELSEWHERE.items() if other == uri), f"docs/{uri}")

    def turned(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        there = _uri_of(path)
        if there is not None and files.get_file_from_path(there):
            relative = posixpath.relpath(there, posixpath.dirname(uri) or ".")
            return f"{image}[{text}]({relative}{anchor or ''})"
        if not image and there is None and (_ROOT / path).exists():
            return text
        return match[0]  # for MkDocs to warn of

    return _outside_of_fences(markdown, lambda text: _LINK.sub(turned, text))


def _uri_of(path: str) -> str | None:
    """Returns where a file of the repository is in the site; None if it is not there."""
    if path in _ELSEWHERE:
        return _ELSEWHERE[path]
    folder, name = posixpath.split(path)
    if folder in _IMAGES:
        return f"{_IMAGES[folder]}/{name}"
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def _outside_of_fences(text: str, change: Any) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


# --- What a build is held to ---------------------------------------------------------------------

_external: set[str] = set()


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Collects the addresses of other sites."""
    del page, config, files
    _external.update(re.findall(r'(?:href|src)="(https?://[^"]+)"', html))
    return html


def on_post_build(config: Any) -> None:
    """Warns of public names that the reference does not have; writes the list of addresses."""
    built = pathlib.Path(config.site_dir)
    (built.parent / "external-links.txt").write_text("".join(f"{a}\n" for a in sorted(_external)))
    roles = dict(_documented(built / "objects.inv"))
    for name in public_names(_ROOT / "tff_dp"):
        # Where a function has the name of its module, griffe takes the name for the module.
        full = f"{name}.{name.rpartition('.')[2]}"
        if roles.get(name) == "py:module":
            _log.warning("%s is a module in the API reference; name %s", name, full)
        elif not {name, full} & roles.keys():
            _log.warning("%s is public, and the API reference (docs/api) does not have it", name)


def _documented(inventory: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Reads the names of an inventory in Sphinx's format, version 2, and what they are."""
    *_, packed = inventory.read_bytes().split(b"\n", 4)
    for line in zlib.decompress(packed).decode().splitlines():
        name, role = line.split(" ", 2)[:2]
        yield name, role


def public_names(package: pathlib.Path) -> list[str]:
    """Returns what `__all__` of a package and of its public modules lists, but for modules.

    Args:
      package: The folder of the package, whose files are read and not imported.
    """
    names = []
    for path in [package, *sorted(package.iterdir())]:
        source = path / "__init__.py" if path.is_dir() else path
        if path.name.startswith("_") or not source.is_file() or source.suffix != ".py":
            continue
        module = package.name if path == package else f"{package.name}.{path.stem}"
        names += [f"{module}.{name}" for name in _all_of(source)]
    others = {"tff", "__version__"} | {p.stem for p in package.iterdir() if p.is_dir()}  # modules
    return [name for name in names if name.rpartition(".")[2] not in others]


def _all_of(source: pathlib.Path) -> list[str]:
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return list(ast.literal_eval(node.value))
    return []
