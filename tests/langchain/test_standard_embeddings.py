"""LangChain's standard tests of embeddings: native OpenAI ones, and accelerated."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_openai import OpenAIEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from benchmarks.openai_server import Connection
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.openai_embeddings import AcceleratedOpenAIEmbeddings


@pytest.fixture
def _standard_settings(openai_server: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_API_BASE", openai_server.base_url)


class _Settings:
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"OPENAI_API_KEY": "from env", "OPENAI_ORG_ID": "us"}, {}, {"openai_api_key": "from env"}


@pytest.mark.usefixtures("_standard_settings")
class TestNativeUnits(_Settings, EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings


@pytest.mark.usefixtures("_standard_settings")
class TestAcceleratedUnits(_Settings, EmbeddingsUnitTests):
    """LangChain's own suite; the native class passes all of it, and so must the accelerated one."""

    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return AcceleratedOpenAIEmbeddings


@pytest.mark.usefixtures("_standard_settings")
class TestNativeIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings


@pytest.mark.usefixtures("_standard_settings")
class TestAcceleratedIntegration(EmbeddingsIntegrationTests):
    """LangChain's own suite; the native class passes all of it, and so must the accelerated object."""

    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @pytest.fixture
    def model(self) -> OpenAIEmbeddings:
        return accelerate_embeddings(OpenAIEmbeddings())
