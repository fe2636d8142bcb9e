"""Objects that share every attribute with a native one, and do some of what it does in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from llama_index_aaflow.native_classes import sharing


class ModelView:
    """Mixed into a class of pydantic models. A view is pickled as what it is a view of.

    Attributes:
        aaflow_below: The class of that object.
    """

    aaflow_below: ClassVar[Any]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _itself, (sharing(self, type(self).aaflow_below),)


def _itself(model: Any) -> Any:
    return model


def model_view_class(below: Any, mixin: type[ModelView], told: Mapping[str, Any], methods: Mapping[str, Any]) -> Any:
    """A class for views of a model's class, which bears its name.

    Args:
        below: The class.
        mixin: What is done in another way.
        told: Attributes of the class. A model would take them for fields: they are in a base of their own.
        methods: What has to stand in the class itself.

    Raises:
        TypeError: If the class does not allow for one.
    """
    names = {"__module__": below.__module__, "__qualname__": below.__qualname__, "__doc__": below.__doc__}
    base = type("Told", (mixin,), {**told, "aaflow_below": below})
    return type(below)(below.__name__, (base, below), {**names, **methods})


def is_viewable(model: Any) -> bool:
    """Whether views of an object can be made: of pydantic models that are built as pydantic builds them."""
    look_up: Any = type(model).__getattribute__
    ours = str(getattr(look_up, "__module__", "")).startswith("llama_index_aaflow.")
    return isinstance(model, BaseModel) and (ours or look_up is object.__getattribute__)


class Viewed:
    """An attribute of a plain object that is read as a view of what is there. What is there stays native."""

    def __init__(self, make: Callable[[Any, Any], Any]) -> None:
        """Set up.

        Args:
            make: Gives the view, or the object itself, for the native object and the owner's settings.
        """
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        if obj is None:
            return self
        try:
            native = vars(obj)[self._name]
        except KeyError:
            raise AttributeError(f"{type(obj).__name__!r} object has no attribute {self._name!r}") from None
        views = obj._aaflow.views
        made = views.get(self._name)
        if made is None or made[0] is not native:
            made = views[self._name] = native, self._make(native, obj._aaflow.settings)
        return made[1]

    def __set__(self, obj: Any, value: Any) -> None:
        vars(obj)[self._name] = value

    def __delete__(self, obj: Any) -> None:
        try:
            del vars(obj)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None
