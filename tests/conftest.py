"""One TensorFlow Federated and one worker for the whole run: importing TFF takes seconds."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import pytest

# TFF and TensorFlow make millions of objects: looking for cyclic garbage among them as often as Python
# does by default takes a tenth of the suite's time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def no_worker_is_left():
    """No test runs TFF's default context, whose worker process outlives Python."""
    yield
    from tests.support.workers import workers

    assert not workers(os.getpid())


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Marks as heavy what needs TFF; a test that starts a process of its own says so itself."""
    for item in items:
        if "tff" in item.fixturenames:
            item.add_marker(pytest.mark.heavy)


# What can be replaced in a test without changing the graphs that `fit` keeps between runs.
_NOT_IN_GRAPHS = (
    *("tff_dp.training", "tff_dp.ledger", "tff_dp.runs", "tff_dp.data", "tff_dp.accounting"),
    *("tff_dp.cli", "tff_dp.report", "tests", "os", "posix", "sys", "time", "signal", "shutil"),
)


@pytest.fixture
def monkeypatch(monkeypatch):
    """pytest's fixture; besides, no process of a defect serves another test, nor hides the defect.

    `fit` keeps the processes of earlier runs, in tests as elsewhere. They are dropped where a test
    replaces something that their graphs may depend on, and again when it ends.
    """
    with forgetting(monkeypatch):
        yield monkeypatch


@contextlib.contextmanager
def forgetting(patch):
    dropped = []

    def before(change):
        def changing(target, *args, **kwargs):
            if may_be_in_graphs(target, *args):
                dropped.append(target)
                forget_kept_processes()
            return change(target, *args, **kwargs)

        return changing

    @contextlib.contextmanager
    def context():
        with pytest.MonkeyPatch.context() as inner, forgetting(inner):
            yield inner

    for name in ("setattr", "delattr", "setitem", "delitem"):
        setattr(patch, name, before(getattr(patch, name)))
    patch.context = context
    try:
        yield
    finally:
        if dropped:
            forget_kept_processes()


def may_be_in_graphs(target, name=None, *_) -> bool:
    """Returns whether the graph of a learning process may depend on an attribute or item."""
    if isinstance(target, types.ModuleType):
        module = target.__name__
    else:
        module = getattr(target, "__module__", None) or type(target).__module__
    if module.endswith(".kept_processes"):
        return name != "_kept"  # another cache in place of this one
    return module not in _NOT_IN_GRAPHS and not module.startswith(
        tuple(f"{each}." for each in _NOT_IN_GRAPHS)
    )


def forget_kept_processes() -> None:
    kept = sys.modules.get("tff_dp.training.kept_processes")
    if kept is not None:
        kept._kept.clear()


@pytest.fixture(scope="session")
def tff():
    from tff_dp import _compat

    loaded = _compat.tff.load()
    gc.freeze()  # the objects of the packages stay until the end
    return loaded


@pytest.fixture(scope="session")
def stock_context(tff):
    """Stock TFF with one worker for all tests that run computations, not installed."""
    from tff_dp import execution

    with execution.stock(install=False, unkeyed_noise=True) as context:
        yield context


@pytest.fixture
def stock(tff, stock_context):
    """Stock TFF as the context in effect, for one test; noise that is not keyed runs in it."""
    with tff.framework.get_context_stack().install(stock_context):
        yield stock_context


@pytest.fixture(params=["stock", "fast"])
def context(request, tff):
    """Either execution context, for what has to hold in both."""
    if request.param == "stock":
        yield request.getfixturevalue("stock")
        return
    from tff_dp import execution

    with execution.fast() as context:
        yield context
