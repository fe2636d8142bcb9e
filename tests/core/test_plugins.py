"""Plug-ins are found by entry points and loaded when an object of theirs is handed over."""

from __future__ import annotations

import pytest

import aaflow_plugins
from aaflow_plugins import plugins


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
