"""Classes made at run time that stand for native ones: they bear their names, and hold nothing of their own."""

from __future__ import annotations

import copy
from functools import lru_cache
from types import FunctionType
from typing import Any, ClassVar, Final

from aaflow_plugins.executor import Executor

#: What a subclass may not have a way of its own of, because the accelerated object bypasses or replaces it.
_OBJECT_METHODS: Final = (
    "__new__",
    "__getattribute__",
    "__setattr__",
    "__reduce__",
    "__reduce_ex__",
    "__copy__",
    "__deepcopy__",
    "__init_subclass__",
    "__pydantic_init_subclass__",
)
_STATE: Final = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")


class StandsFor:
    """A native object's own settings, with methods that do the same sooner.

    Attributes:
        aaflow_native: The class that this one stands for.
    """

    aaflow_native: ClassVar[Any]
    _executor: ClassVar[Executor | None]
    _setting: ClassVar[Any]

    @classmethod
    def aaflow_class(cls, native: Any, executor: Executor | None, setting: Any = None) -> Any:
        """The class that stands for `native` with this executor; the same each time.

        Args:
            native: The class.
            executor: The executor.
            setting: What else a family's methods depend on; it can be hashed and pickled.
        """
        family: Any = cls
        return _class(family, native, executor, setting)

    @classmethod
    def aaflow_methods(cls, native: Any, executor: Executor | None, setting: Any) -> dict[str, Any]:
        """What the class made for `native` has beside what this one has."""
        return {}

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        """Name the native class, so that a class made at run time can be restored."""
        owner = type(self)
        if "aaflow_native" not in vars(owner):  # A subclass that somebody wrote: it has a name to be found by.
            return super().__reduce_ex__(protocol)
        family = next(base for base in owner.__bases__ if issubclass(base, StandsFor))
        made_for = (family, self.aaflow_native, self._executor, self._setting)
        return _restored, made_for, self.__getstate__()


@lru_cache(maxsize=256)
def _class(family: Any, native: Any, executor: Executor | None, setting: Any) -> Any:
    methods = family.aaflow_methods(native, executor, setting)
    namespace = {"__module__": native.__module__, "__doc__": native.__doc__, **methods}
    made = type(native)(native.__name__, (family, native), namespace)
    made.__qualname__ = native.__qualname__
    made.aaflow_native = native
    made._executor = executor
    made._setting = setting
    return made


def _restored(family: Any, native: Any, executor: Executor | None, setting: Any) -> Any:
    made = family.aaflow_class(native, executor, setting)
    return made.__new__(made)


def with_class(obj: Any, cls: Any) -> Any:
    """A copy of a pydantic object as pydantic makes one, but of another class."""
    return _with_state(cls, {name: copy.copy(getattr(obj, name)) for name in _STATE})


def sharing(obj: Any, cls: Any) -> Any:
    """The same pydantic object seen with another class: what is set on the one is set on the other."""
    return _with_state(cls, {name: getattr(obj, name) for name in _STATE})


def _with_state(cls: Any, state: dict[str, Any]) -> Any:
    made = cls.__new__(cls)
    for name, value in state.items():
        object.__setattr__(made, name, value)
    return made


def with_names(function: Any, names: dict[str, Any]) -> FunctionType:
    """A function of the same code, whose global names are others."""
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
    made.__annotations__ = function.__annotations__
    return made


def found(cls: type[Any], name: str) -> Any:
    """A member as it stands in the namespace of the class that has it; None if none has."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def overridden(native: type[Any], known: type[Any]) -> str | None:
    """Why an object of `native`, a subclass of `known`, can't be given another class; None if it can."""
    for name in _OBJECT_METHODS:
        if any(name in vars(cls) for cls in native.__mro__ if cls not in known.__mro__):
            return f"{native.__qualname__} has its own {name}"
    return None
