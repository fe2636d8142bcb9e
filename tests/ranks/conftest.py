"""Every test runs in a block of its own: one that fails on a rank fails on all, and nobody waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.plugins import engine
from llama_index_aaflow.carried_files import carried, use_copy_of_nltk_data
from tests.generated import leave_tried


def pytest_configure() -> None:
    use_copy_of_nltk_data()
    encodings = carried("tiktoken_cache")
    if encodings:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(encodings))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_tried(config, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ranks" in metafunc.fixturenames:
        names = ["mpi"] if engine("mpi").size > 1 else ["local", "mpi"]
        if find_spec("pycylon"):
            names.append("cylon")
        metafunc.parametrize("ranks", names, indirect=True)


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Communicator:
    found = engine(request.param)
    if found.size == 1 and request.node.get_closest_marker("own_block"):
        pytest.skip("one rank runs no tasks")
    return found


@pytest.fixture
def job() -> Communicator:
    """All ranks; unlike those of `ranks` each test has blocks of its own, also where there is one rank."""
    return engine("mpi")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    ranks = pyfuncitem.funcargs.get("ranks")
    if ranks is None or pyfuncitem.get_closest_marker("own_block"):
        return (yield)
    with ranks.together(pyfuncitem.name):
        return (yield)
