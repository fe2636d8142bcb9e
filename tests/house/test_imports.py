"""Importing the core is cheap and brings no framework; plug-ins are found, and loaded only when needed."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from typing import Any

import pytest

from aaflow_plugins import accelerate, plugins
from tests.house.repository import frameworks

#: CPU seconds that `import aaflow_plugins` may take beyond pyarrow and numpy.
BUDGET = 0.150


def in_a_fresh_process(code: str) -> Any:
    """What `code` prints as JSON. Without coverage, pytest's plug-ins or anything else imported before."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_importing_takes_next_to_nothing() -> None:
    """CPU time, not wall time: another process's load must not decide."""
    code = (
        "import json, numpy, pyarrow, time; began = time.process_time(); import aaflow_plugins; "
        "print(json.dumps(time.process_time() - began))"
    )
    assert statistics.median(in_a_fresh_process(code) for _ in range(5)) < BUDGET


def test_no_module_of_the_core_imports_a_framework() -> None:
    """Also not by a name put together at run time, which the contracts would not see.

    The modules of the engines that need a library are imported when one is asked for, and import it.
    """
    code = (
        "import aaflow_plugins, importlib, json, pkgutil, sys\n"
        "for module in pkgutil.walk_packages(aaflow_plugins.__path__, 'aaflow_plugins.'):\n"
        "    if not module.name.startswith(('aaflow_plugins.engines.mpi', 'aaflow_plugins.engines.cylon')):\n"
        "        importlib.import_module(module.name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = in_a_fresh_process(code)
    assert "aaflow_plugins.executor" in loaded
    assert not {name.partition(".")[0] for name in loaded} & set(frameworks())


def test_the_adapter_is_loaded_for_an_object_of_its_framework() -> None:
    code = (
        "import json, sys\n"
        "from langchain_text_splitters import CharacterTextSplitter\n"
        "import aaflow_plugins\n"
        "before = 'langchain_aaflow' in sys.modules\n"
        "fast = aaflow_plugins.accelerate(CharacterTextSplitter())\n"
        "print(json.dumps([before, 'langchain_aaflow' in sys.modules, isinstance(fast, CharacterTextSplitter)]))"
    )
    assert in_a_fresh_process(code) == [False, True, True]


def test_entry_points_load_and_implement_hooks() -> None:
    manager = plugins.plugin_manager()
    ours = [entry for entry in plugins.installed() if entry.dist and entry.dist.name == "aaflow-plugins"]
    assert {entry.value for entry in ours} == {"langchain_aaflow.plugin", "llama_index_aaflow.plugin"}
    for entry in ours:
        plugins.load(entry)
        assert manager.get_hookcallers(manager.get_plugin(entry.value))
    manager.check_pending()  # raises if a function is meant for a hook that does not exist


@pytest.mark.parametrize("obj", [object(), 3, None, "text", ["a", "list"], print])
def test_an_unknown_object_is_named_with_what_is_known(obj: Any) -> None:
    name = re.escape(f"{type(obj).__module__}.{type(obj).__qualname__}")
    with pytest.raises(TypeError, match=rf"nothing installed accelerates an object of {name} \(plug-ins: .*langchain"):
        accelerate(obj)
