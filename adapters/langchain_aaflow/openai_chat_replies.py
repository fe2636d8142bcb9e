"""Replies of OpenAI's chat API: straight from their JSON to the message that the native code makes of them.

Natively a reply's JSON becomes a tree of pydantic models, of which langchain-openai makes dicts again: the same values,
in the order of the installed release's fields, with None where the reply says nothing. The order and the fields are
read from the client's own classes here. A reply that pydantic might coerce, complain about or take for something else
is not plain, and is left to it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import langchain_core.callbacks.manager as callbacks
import langchain_core.language_models.chat_models as core
import langchain_openai.chat_models.base as native_module
import openai
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.utils import LC_ID_PREFIX
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletion
from pydantic_core import PydanticUndefined

Reader = Callable[[Any], Any]

#: Names, beside the fields, that langchain-openai looks for.
_MEANINGFUL = frozenset({"error", "parsed"})

_NO_DEFAULT = (None, PydanticUndefined)

#: Ids of runs, as the installed langchain-core makes them.
_new_run_id: Callable[[], uuid.UUID] = vars(callbacks).get("uuid7", uuid.uuid4)

#: What a gateway says in headers, where the installed langchain-openai reads them.
_add_gateway_metadata: Any = vars(native_module).get("_add_gateway_metadata")


class NotPlainError(Exception):
    """A value that is not exactly of its field's type."""


def message_of(model: ChatOpenAI, answer: Any, config: RunnableConfig | None) -> AIMessage | None:
    """The message that the native call makes of a plain answer; None for any other.

    Args:
        model: The model.
        answer: The HTTP response that came, or the exception; None if nothing was sent.
        config: The call's configuration: the message is named after its run.
    """
    result = result_of(model, answer)
    if result is None:
        return None
    generation = result.generations[0]
    message = generation.message
    if message.id is None:
        run_id = (config or {}).get("run_id") or _new_run_id()
        message.id = f"{LC_ID_PREFIX}-{run_id}-0"
    message.response_metadata = {**(result.llm_output or {}), **core._gen_info_and_msg_metadata(generation)}
    return cast(AIMessage, message)


def result_of(model: ChatOpenAI, answer: Any) -> ChatResult | None:
    """What the native `_generate` makes of a plain answer; None for any other.

    Args:
        model: The model.
        answer: The HTTP response that came, or the exception; None if nothing was sent.
    """
    if answer is None or isinstance(answer, Exception) or answer.status_code != 200:
        return None
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        reply = dumped(answer.json())
        info: dict[str, Any] = {}
        if _add_gateway_metadata is not None:
            _add_gateway_metadata(info, answer)
        result = model._create_chat_result(reply, info)
    except Exception:
        return None
    message = result.generations[0].message
    # The native code takes it from a typed reply alone.
    if "refusal" in (said := reply["choices"][0]["message"]):
        message.additional_kwargs["refusal"] = said["refusal"]
    return result if type(message) is AIMessage else None


def dumped(data: Any) -> dict[str, Any]:
    """What `model_dump()` of the client's reply gives, for a reply of exactly one choice.

    Args:
        data: The JSON of a reply.

    Raises:
        NotPlainError: If the reply is not of the expected form in all its parts.
    """
    reply: dict[str, Any] = _read_completion(data)
    if len(reply["choices"]) != 1 or reply["choices"][0]["message"]["role"] != "assistant":
        raise NotPlainError
    return reply


def _reader(annotation: Any) -> Reader:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _reader(arguments[0])
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not NoneType]
        return _reader(kinds[0]) if len(kinds) == 1 else _union(kinds)
    if origin is Literal and set(map(type, arguments)) == {str}:
        return _one_of(frozenset(arguments))
    if origin is list:
        return _list(_reader(arguments[0]))
    if annotation in (str, int, float, bool):
        return _exactly(annotation)
    if isinstance(annotation, type) and issubclass(annotation, openai.BaseModel):
        return _model(annotation)
    return _nothing


def _exactly(kind: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise NotPlainError
        return value

    return read


def _one_of(values: frozenset[str]) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not str or value not in values:
            raise NotPlainError
        return value

    return read


def _list(element: Reader) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise NotPlainError
        return [element(one) for one in value]

    return read


def _nothing(value: Any) -> Any:
    raise NotPlainError


def _union(kinds: list[Any]) -> Reader:
    """Models that their `type` tells apart."""
    readers: dict[str, Reader] = {}
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, openai.BaseModel) and "type" in kind.model_fields):
            return _nothing
        for name in get_args(kind.model_fields["type"].annotation):
            readers[name] = _model(kind)

    def read(value: Any) -> Any:
        if type(value) is not dict or type(value.get("type")) is not str:
            raise NotPlainError
        return readers.get(value["type"], _nothing)(value)

    return read


def _model(kind: type[openai.BaseModel]) -> Reader:
    readers = {
        # A field of another name or with a default of its own would come out in another way.
        name: _reader(field.annotation) if field.alias is None and field.get_default() in _NO_DEFAULT else _nothing
        for name, field in kind.model_fields.items()
    }
    required = frozenset(name for name, field in kind.model_fields.items() if field.is_required())

    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise NotPlainError
        result: dict[str, Any] = {}
        for name, reader in readers.items():
            given = value.get(name)
            if given is None and name in required:
                raise NotPlainError
            result[name] = None if given is None else reader(given)
        for name, given in value.items():
            # What other vendors add stays, behind the fields.
            if name not in readers:
                if name in _MEANINGFUL or name.startswith("_"):
                    raise NotPlainError
                result[name] = given
        return result

    return read


_read_completion = _model(ChatCompletion)
