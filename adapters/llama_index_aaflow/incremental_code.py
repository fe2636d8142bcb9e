"""Values and code, spelled out so that what differs is written differently.

Code of an installed distribution, or of Python itself, is told by its name and version. Other code is told by all
that it can reach: compiled code, defaults, closures, attributes, and the globals it names, these in the same way.
Whatever else there is has no key.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from enum import Enum
from functools import cached_property, lru_cache, partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

from pydantic import BaseModel

from llama_index_aaflow.known_code import plain
from llama_index_aaflow.parsing.nodes import ATOMS

#: What a class's namespace holds beside what somebody wrote there; pydantic's fields and private attributes are told
#: by the values that an object has.
_MADE: Final = re.compile(
    "__module__|__qualname__|__dict__|__weakref__|__doc__|__abstractmethods__|_abc_impl|__parameters__|__orig_bases__"
    "|__type_params__|__static_attributes__|__firstlineno__|__signature__|__class_vars__|__private_attributes__"
    "|model_config|__annotat.*|__pydantic_.*"
)

#: Builtins by which code reaches what it does not name.
_REACHING: Final = re.compile(
    "__import__|breakpoint|compile|delattr|dir|eval|exec|globals|input|locals|open|setattr|vars"
)

#: Functions and methods by which code reads files, or code, that it does not hold.
_READING: Final = re.compile(
    "open|open_text|open_binary|read_text|read_bytes|read_binary|read_csv|read_json|read_parquet|read_table|fromfile"
    "|loadtxt|genfromtxt|memmap|getlines?|urlopen|import_module|load_module|exec_module|run_path|run_module|get_data"
)

#: Attributes of modules that do the same.
_READING_OF: Final = {("sys", "modules"), ("numpy", "load"), ("np", "load"), ("torch", "load"), ("joblib", "load")}

#: What of an enumeration's class is told by its members, or comes with every enumeration.
_ENUMERATED: Final = re.compile(r"_[a-z0-9_]+_|__.*__")


class NoKeyError(Exception):
    """Something can't be told apart from others like it; the message says what."""


def name_of(obj: Any) -> str:
    """The qualified name of a function or a class."""
    # By the second name worker processes know what a script defines.
    module = "__main__" if obj.__module__ == "__mp_main__" else obj.__module__
    return f"{module}.{obj.__qualname__}"


@lru_cache(maxsize=1)
def _places() -> tuple[str, ...]:
    """The folders that distributions are installed in."""
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    folders |= {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return tuple(sorted({str(Path(folder)) + "/" for folder in folders}))


@lru_cache(maxsize=1)
def _standard() -> str:
    return str(Path(sysconfig.get_path("stdlib"))) + "/"


@lru_cache(maxsize=1)
def _owners() -> Any:
    return packages_distributions()


@lru_cache(maxsize=1024)
def _versions_of(package: str) -> str | None:
    """The versions of the distributions that have a package; None if none has."""
    if package in sys.stdlib_module_names:
        return "python " + ".".join(map(str, sys.version_info[:3]))
    names = sorted(set(_owners().get(package, ())))
    return " ".join(f"{name} {version(name)}" for name in names) or None


@lru_cache(maxsize=1024)
def _installed_file(path: str) -> str | None:
    """The package and the versions a source file belongs to; None if it is not of an installed distribution."""
    for place in _places():
        if path.startswith(place):
            package = Path(path[len(place) :]).parts[0].split(".")[0]
            return None if package in sys.stdlib_module_names else _versions_of(package)
    standard = path.startswith(_standard()) and not {"site-packages", "dist-packages"}.intersection(Path(path).parts)
    return _versions_of("sys") if standard or path.startswith("<frozen ") else None


@lru_cache(maxsize=1024)
def _installed_module(name: str) -> str | None:
    """The versions that tell of a module; None if it is not of an installed distribution."""
    module = sys.modules.get(name)
    try:
        spec = find_spec(name) if module is None else module.__spec__
    except (AttributeError, ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin in ("built-in", "frozen"):
        return _versions_of(name.partition(".")[0])
    return _installed_file(spec.origin or next(iter(spec.submodule_search_locations or ()), "") + "/")


@lru_cache(maxsize=1024)
def _installed_class(cls: type) -> str | None:
    """The versions that tell of a class; None if it is not found by its name in an installed module."""
    known = _installed_module(cls.__module__)
    obj: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        obj = getattr(obj, name, None)
    return known if obj is cls else None


def is_installed(cls: type) -> bool:
    """Whether a class is one of an installed distribution, or of Python."""
    return _installed_class(cls) is not None


class Telling:
    """Writes values and code as JSON can hold them; functions and classes that were met before by their number."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}

    def written(self, value: Any) -> Any:
        """A value, different for each two that differ in order, type or code.

        Raises:
            NoKeyError: If it can't be told from others.
            RecursionError: If it holds itself, or holds others too deep.
        """
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is list:
            return [self.written(item) for item in value]
        if kind is tuple:
            return {"tuple": [self.written(item) for item in value]}
        if kind is dict:
            return {"dict": [[self.written(key), self.written(item)] for key, item in value.items()]}
        if kind is set or kind is frozenset:
            return {kind.__name__: sorted(json.dumps(self.written(item)) for item in value)}
        if isinstance(value, Enum):
            return {"enum": [self.written(kind), value.name, self.written(value.value)]}
        if isinstance(value, BaseModel):
            if value.__pydantic_extra__ or value.__pydantic_private__:
                raise NoKeyError(f"{kind.__name__} with attributes of its own")
            return {"model": [self.written(kind), self.written(value.__dict__)]}
        if kind is bytes:
            return {"bytes": value.hex()}
        if isinstance(value, Path) and is_installed(kind):
            return {"path": str(value)}
        if kind is re.Pattern:
            return {"pattern": [self.written(value.pattern), value.flags]}
        if isinstance(value, type):
            return self._class(value)
        return self._callable(value)

    def named(self, name: str, value: Any) -> Any:
        """A value that code reaches by a name, which the error tells of."""
        try:
            return [name, self.written(value)]
        except NoKeyError as error:
            raise NoKeyError(f"{name}: {error}") from error

    def _callable(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, ModuleType):
            known = _installed_module(value.__name__)
            if known is None or sys.modules.get(value.__name__) is not value:
                raise NoKeyError(f"the module {value.__name__} can't be told by what of it is used")
            return {"module": [value.__name__, known]}
        if type(value) is partial:
            return {"partial": [self.written(part) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, MethodType):
            return {"method": [self.written(value.__func__), self.written(value.__self__)]}
        if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType):
            name = value.__name__
            if _REACHING.fullmatch(name) and value is vars(builtins).get(name):
                raise NoKeyError(f"{name} reaches what it does not name")
            return {"builtin": [value.__module__, value.__qualname__, self._callable(value.__self__)]}
        if isinstance(value, MethodDescriptorType):
            return {"descriptor": [self.written(value.__objclass__), value.__name__]}
        return {"encoding": _encoding(value)}

    def _again(self, value: Any) -> Any:
        if id(value) in self._met:
            return {"again": self._met[id(value)][0]}
        self._met[id(value)] = len(self._met), value
        return None

    def _function(self, function: FunctionType) -> Any:
        again = self._again(function)
        if again is not None:
            return again
        known = _installed_file(function.__code__.co_filename)
        if known is not None and _READING.fullmatch(function.__name__):
            raise NoKeyError(_reads(function.__name__))
        cells = [["empty"] if _is_empty(cell) else [cell.cell_contents] for cell in function.__closure__ or ()]
        held = [
            self.named(f"{function.__qualname__}, {name}", part)
            for name, part in (
                ("closure", cells),
                ("defaults", function.__defaults__),
                ("defaults of keywords", function.__kwdefaults__),
                ("attributes", vars(function)),
            )
        ]
        globals_ = known or [self._global(function, chain) for chain in sorted(set(_chains(function.__code__)))]
        return {"function": [name_of(function), code_digest(function.__code__), globals_, held]}

    def _global(self, function: FunctionType, chain: tuple[str, ...]) -> Any:
        """What code reaches by a global's name; of a module of somebody's own, the attribute that it names."""
        name, *attributes = chain
        spaces: Any = function.__globals__, vars(builtins)
        space = next((space for space in spaces if name in space), None)
        if space is None:
            return [name]  # not defined: an error, or the name of a local variable of a class's body
        value = space[name]
        reached = name
        while isinstance(value, ModuleType) and attributes and _installed_module(value.__name__) is None:
            attribute = attributes.pop(0)
            reached += f".{attribute}"
            if attribute not in vars(value):
                raise NoKeyError(f"{reached} is not defined")
            value = vars(value)[attribute]
        return self.named(reached, value)

    def _class(self, cls: type) -> Any:
        known = _installed_class(cls)
        return {"class": [name_of(cls), known]} if known is not None else self.bases(cls)

    def bases(self, cls: type) -> Any:
        """A class with all its bases, and with what somebody has put in place of an installed one's methods.

        Raises:
            NoKeyError: If anything that it has can't be told from others.
            RecursionError: If it holds others too deep.
        """
        again = self._again(cls)
        if again is not None:
            return again
        return {"bases": [self._namespace(base) for base in cls.__mro__], "of": self.written(type(cls))}

    def _namespace(self, cls: type) -> Any:
        known = _installed_class(cls)
        if known is not None and not issubclass(cls, BaseModel):
            return [name_of(cls), known]
        members = sorted(vars(cls).items())
        if known is not None:  # What somebody has put in place of a method.
            return [name_of(cls), known, [self._member(cls, *one) for one in members if _is_foreign(one[1])]]
        if issubclass(cls, Enum):
            values = [[name, self.written(member.value)] for name, member in cls.__members__.items()]
            others = [one for one in members if one[0] not in cls.__members__ and not _ENUMERATED.fullmatch(one[0])]
            special = [one for one in members if _ENUMERATED.fullmatch(one[0]) and _is_foreign(one[1])]
            return [name_of(cls), values, [self._member(cls, *one) for one in others + special]]
        written = [self._member(cls, name, member) for name, member in members if not _MADE.fullmatch(name)]
        return [name_of(cls), written]

    def _member(self, cls: type, name: str, member: Any) -> Any:
        reached = f"{cls.__name__}.{name}"
        kind = type(member)
        if kind in (MemberDescriptorType, GetSetDescriptorType):
            return [reached]
        if kind is property:
            return self.named(reached, (member.fget, member.fset, member.fdel))
        if kind is cached_property:
            return self.named(reached, member.func)
        if kind in (staticmethod, classmethod):
            return [kind.__name__, self.named(reached, plain(member.__func__))]
        return self.named(reached, plain(member))


def _is_empty(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


def _is_foreign(member: Any) -> bool:
    function = plain(member)
    return isinstance(function, FunctionType) and _installed_file(function.__code__.co_filename) is None


def _chains(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The globals that code names, each with the attributes that it takes of it.

    Raises:
        NoKeyError: If it imports what is not installed.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    for number, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level = steps[number - 2].argval
            package = step.argval.partition(".")[0]
            if level != 0 or _installed_module(package) is None:
                raise NoKeyError(f"{code.co_name} imports {step.argval}")
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and _READING.fullmatch(step.argval):
            raise NoKeyError(_reads(step.argval))
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            chain = [step.argval]
            for after in steps[number + 1 :]:
                if after.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    break
                chain.append(after.argval)
            if tuple(chain[:2]) in _READING_OF:
                raise NoKeyError(_reads(".".join(chain[:2])))
            yield tuple(chain)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _chains(constant)


def _reads(name: str) -> str:
    return f"{name} reads what it does not name"


def code_digest(code: CodeType) -> str:
    """A digest of compiled code, wherever in a file it stands."""
    hashed = hashlib.sha256(code.co_code)
    hashed.update(code.co_exceptiontable)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    hashed.update(repr((names, code.co_argcount, code.co_kwonlyargcount, code.co_flags)).encode())
    for constant in code.co_consts:
        hashed.update((code_digest(constant) if isinstance(constant, CodeType) else _constant(constant)).encode())
    return hashed.hexdigest()


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value) + type(value).__name__


def _encoding(value: Any) -> str:
    """The name of one of tiktoken's own encodings."""
    registry = sys.modules.get("tiktoken.registry")
    name = getattr(value, "name", None)
    if registry is None or type(name) is not str or registry.ENCODINGS.get(name) is not value:
        raise NoKeyError(f"{type(value).__name__} can't be told from others by its value")
    return name
