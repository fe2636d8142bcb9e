"""Plug-ins are found by entry points and loaded when an object of theirs is handed over."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

import aaflow_plugins
from aaflow_plugins import Executor, hookimpl, hookspecs, plugins
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.launching import launch_command, launched_ranks
from aaflow_plugins.engines.local import LocalCommunicator


def test_an_object_that_nobody_knows_is_refused_by_its_class() -> None:
    with pytest.raises(TypeError, match=r"nothing installed accelerates an object of builtins.dict .*langchain"):
        aaflow_plugins.accelerate({})


def test_a_class_in_place_of_an_object_is_named() -> None:
    from langchain_text_splitters import CharacterTextSplitter

    with pytest.raises(TypeError, match=r"is the class .*CharacterTextSplitter.*give an object"):
        aaflow_plugins.accelerate(CharacterTextSplitter)


def test_the_adapter_is_found_by_the_objects_bases() -> None:
    from langchain_core.embeddings import Embeddings

    class Mine(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return [1.0]

    mine = Mine()
    assert aaflow_plugins.accelerate(mine) is mine
    assert "langchain_aaflow.plugin" in {name for name, _ in plugins.plugin_manager().list_name_plugin()}


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = aaflow_plugins.nothing


class ToyRanks(LocalCommunicator):
    """An engine that somebody else brings."""

    name = "toy"


@hookimpl
def aaflow_engine(name: str) -> Communicator | None:
    return ToyRanks() if name == "toy" else None


def test_an_engine_of_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = (EntryPoint("toy", __name__, hookspecs.ENGINES), *plugins.engines())
    monkeypatch.setattr(plugins, "engines", lambda: installed)
    try:
        assert isinstance(plugins.ranks_of(Executor(engine="toy")), ToyRanks)
        assert plugins.ranks_of(Executor()).name == "local"
    finally:
        plugins.plugin_manager().unregister(name=__name__)


def test_an_engine_that_nobody_has_is_named() -> None:
    with pytest.raises(ValueError, match="engine 'carrier pigeon' is not known: give 'local', 'mpi', 'cylon', or"):
        plugins.ranks_of(Executor(engine="carrier pigeon"))


def test_an_engine_whose_library_is_missing_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aaflow_plugins.engines.mpi", "aaflow_plugins.engines.mpi_control"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"engine 'mpi' needs mpi4py .*pip install 'aaflow-plugins\[mpi\]'"):
        plugins.engine("mpi")


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_says_how_many_ranks_there_are(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_ranks() == 1
    monkeypatch.setenv(variable, "4")
    assert launched_ranks() == 4


@pytest.mark.parametrize(
    ("size", "number"), [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")]
)
def test_a_launcher_says_which_rank_this_is(size: str, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(number, "2")
    assert aaflow_plugins.rank() == 0
    monkeypatch.setenv(size, "4")
    assert aaflow_plugins.rank() == 2
    monkeypatch.setenv("AAFLOW_RANK_PROCESS", "1")
    assert aaflow_plugins.rank() == 0, "what a rank has started is none"


def test_without_a_launcher_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'aaflow-plugins\[mpi\]'"):
        launch_command(2, ["script.py"])
