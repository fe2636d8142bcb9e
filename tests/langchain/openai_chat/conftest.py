"""The server, and how it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from tests.langchain.openai_chat.calls import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all: connections belong to it."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def only_lean(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, native calls fail."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("called natively")

    def arm() -> None:
        monkeypatch.setattr(BaseChatModel, "invoke", refuse)
        monkeypatch.setattr(BaseChatModel, "ainvoke", refuse)

    return arm
