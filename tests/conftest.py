"""One TensorFlow Federated and one worker for the whole run: importing TFF takes seconds."""

from __future__ import annotations

import gc
import os
import sys

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


@pytest.fixture(autouse=True)
def no_process_of_a_defect_is_kept(request):
    """A process of a test that plants a defect must not serve another test, nor hide the defect.

    Defects are planted by `monkeypatch`. Tests without it share what `fit` keeps, as runs do.
    """
    if "monkeypatch" not in request.fixturenames:
        yield
        return
    forget_kept_processes()
    yield
    forget_kept_processes()


def forget_kept_processes() -> None:
    kept = sys.modules.get("tff_dp.training.kept_processes")
    if kept is not None:
        kept._kept.clear()


@pytest.fixture(scope="session")
def tff():
    from tff_dp import _compat

    return _compat.tff.load()


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
