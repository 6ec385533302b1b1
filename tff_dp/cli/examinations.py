"""The checks of `tff-dp doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tff_dp
from tff_dp import _cuda_driver, _memory_growth, _why_no_gpu
from tff_dp._compat import stack
from tff_dp.cli.findings import Finding

_INSTALL = (
    "pip install --no-deps --ignore-requires-python --require-hashes -r requirements.lock "
    "(docs/stack.md)"
)
_LISTED = 6
_REACHED = (
    "while TensorFlow was imported",
    "while TensorFlow Federated was imported",
    "while the model was trained",
)
_OPTIONAL = {  # what each is for, and how to install it
    "tensorboard": (
        "the TensorBoard callback",
        "pip install 'tff_dp[tensorboard]', or pip install tensorboard",
    ),
    "pandas": ("data in frames, CSV and Parquet", "pip install pandas"),
    "pyarrow": ("data in Parquet", "pip install pyarrow"),
}
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    _memory_growth.VARIABLE,
    "TF_USE_LEGACY_KERAS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "TFF_DP_CACHE",
)
_PINNING = ("tensorflow-federated", "tensorflow-privacy")


def all_without_tensorflow() -> list[Finding]:
    """Runs the checks that need no TensorFlow.

    Returns:
      What they have found.
    """
    pins = [*_unsatisfied()]
    return [
        _platform(),
        *_versions(),
        _overrides([pin for pin in pins if pin[0] in stack.OVERRIDDEN]),
        _wrong_pins([pin for pin in pins if pin[0] not in stack.OVERRIDDEN]),
        *_optional(),
        _cache(),
        _environment(),
    ]


def of_stages(stages: Mapping[str, Any], errors: str, ended: bool, seconds: float) -> list[Finding]:
    """Reads what the training check has reported.

    Args:
      stages: What it has reported of each stage that it has completed.
      errors: What it has written to its error stream.
      ended: Whether it ended by itself.
      seconds: The time after which it was stopped otherwise.

    Returns:
      What it has found.
    """
    findings: list[Finding] = []
    other = _why_no_gpu.another_tensorflow(stages["located"]) if "located" in stages else None
    if other is not None:
        findings.append(Finding("tensorflow", "warning", *other))
    if "devices" in stages:
        findings += _devices(stages["devices"], stages.get("imported", {}))
    if "training" in stages:
        found = stages["training"]
        text = (
            f"{found['rounds']} private rounds of {found['clients']} clients in "
            f"{found['seconds']:.1f} s, after {stages['imported']['seconds']:.1f} s for imports; "
            f"epsilon {found['epsilon']:.3f}."
        )
        return [*findings, Finding("training", "ok", text)]
    reached = [name for name in ("devices", "imported") if name in stages]
    after = _REACHED[len(reached)]
    if not ended:
        text = f"not finished within {seconds:g} s, {after}. The machine may be busy."
        remedy = "Run it again on an idle machine, or without a limit: tff-dp selftest."
        return [*findings, Finding("training", "warning", text, remedy)]
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "no message")
    return [*findings, Finding("training", "error", f"failed {after}: {last.strip()}", _INSTALL)]


def _platform() -> Finding:
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    text = f"tff_dp {tff_dp.__version__} on {system}."
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        remedy = "TFF 0.87.0 is built for Linux on x86-64 alone: use such a machine or container."
        return Finding("platform", "error", text, remedy)
    if sys.version_info[:2] not in stack.TESTED_PYTHON:
        return Finding("platform", "error", text, "Use Python 3.11, 3.12 or 3.13.")
    return Finding("platform", "ok", text)


def _versions() -> Iterator[Finding]:
    problems = stack.check_stack()
    if problems:
        yield Finding("versions", "error", f"{'; '.join(problems)}.", _INSTALL)
    pinned = stack.locked()
    if not pinned:
        yield Finding(
            "lock", "warning", "the list of versions that were tested together is missing."
        )
        return
    found = {name: _installed(name) for name in pinned}
    missing = [name for name, version in found.items() if version is None]
    other = [
        f"{name} {version} (tested: {pinned[name]})"
        for name, version in found.items()
        if version not in (None, pinned[name])
    ]
    if missing:
        yield Finding("missing", "error", f"not installed: {_list(missing)}.", _INSTALL)
    if other:
        text = (
            f"{len(other)} of {len(pinned)} packages are not those tested together: {_list(other)}."
        )
        yield Finding("lock", "warning", text, f"For the tested ones: {_INSTALL}")
    elif not missing:
        main = ", ".join(f"{name} {found[name]}" for name in stack.TESTED if name in found)
        yield Finding(
            "versions", "ok", f"all {len(pinned)} packages are those tested together: {main}."
        )


def _unsatisfied() -> Iterator[tuple[str, str]]:
    """Yields the requirements that are not met, of what tff_dp needs: a package, and a text."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for package in ("tff_dp", *stack.locked()):
        try:
            requirements = importlib.metadata.requires(package) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in requirements:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            name = str(canonicalize_name(wanted.name))
            version = _installed(name)
            if version is None:
                yield (
                    name,
                    f"{package} wants {wanted.name}{wanted.specifier}, which is not installed",
                )
            elif not wanted.specifier.contains(version, prereleases=True):
                yield (
                    name,
                    f"{package} wants {wanted.name}{wanted.specifier}, installed is {version}",
                )


def _overrides(pins: list[tuple[str, str]]) -> Finding:
    names = sorted({name for name, _ in pins})
    text = (
        f"the pins of {' and '.join(_PINNING)} for these packages are replaced, as docs/stack.md says: "
        f"{', '.join(names) or 'none'}."
    )
    return Finding("overrides", "ok" if names else "note", text)


def _wrong_pins(pins: list[tuple[str, str]]) -> Finding:
    if not pins:
        return Finding("pins", "ok", "every other requirement is met.")
    texts = [*dict.fromkeys(text for _, text in pins)]
    return Finding("pins", "warning", f"{'; '.join(texts)}.", f"If it matters: {_INSTALL}")


def _optional() -> Iterator[Finding]:
    for name, (use, remedy) in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            text = f"not installed; for {use}."
            yield Finding(name, "note", text, remedy)
        else:
            yield Finding(name, "ok", f"{_installed(name)}, for {use}.")


def _cache() -> Finding:
    told = os.environ.get("TF_XLA_FLAGS", "")
    flag = "--tf_xla_persistent_cache_directory="
    if flag not in told:
        text = "XLA keeps no compiled code: every process compiles again."
        remedy = "Unset TFF_DP_CACHE, or name a folder in it that only you can write."
        return Finding("cache", "note", text, remedy)
    folder = pathlib.Path(told.partition(flag)[2].split()[0])
    files = [path for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files) / 2**20
    return Finding("cache", "ok", f"{folder}: {len(files)} compiled programs, {size:.1f} MiB.")


def _environment() -> Finding:
    found = [f"{name}={os.environ[name]!r}" for name in _VARIABLES if name in os.environ]
    return Finding("environment", "ok", f"{', '.join(found) or 'no variable of interest is set'}.")


def _devices(found: Mapping[str, Any], imported: Mapping[str, Any]) -> Iterator[Finding]:
    seen = ", ".join(found["seen"]) or "none"
    text = f"seen: {seen}; used for clients: {imported.get('used') or 'not known yet'}."
    yield Finding("devices", "ok", text)
    build = _why_no_gpu.Build(**{**found["build"], "code": tuple(found["build"]["code"])})
    if found["gpus"]:
        yield _gpus(found["gpus"], imported)
    else:
        yield Finding("gpu", "note", *_why_no_gpu.why_no_gpu(build, os.environ))


def _gpus(count: int, imported: Mapping[str, Any]) -> Finding:
    """Says which cards there are, and whether they are used."""
    cards = [
        f"{card.name}, {card.memory / 2**30:.1f} GiB, compute capability {card.capability[0]}."
        f"{card.capability[1]}"
        for card in _cuda_driver.cards()
    ]
    which = "; ".join(cards) or f"{count}"
    if not imported:
        return Finding("gpu", "ok", f"seen: {which}.")
    if imported["on_gpu"]:
        return Finding("gpu", "ok", f"seen and used: {which}.")
    return Finding("gpu", "warning", f"seen and not used: {which}.", "Run tff-dp doctor again.")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _list(texts: list[str]) -> str:
    more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return ", ".join(texts[:_LISTED]) + more
