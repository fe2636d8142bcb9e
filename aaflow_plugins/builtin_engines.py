"""The engines that come with the core, as a plug-in like any other's."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.cylon_check import check
from aaflow_plugins.engines.launching import is_child, launcher
from aaflow_plugins.engines.local import LocalCommunicator
from aaflow_plugins.hookspecs import hookimpl


@hookimpl
def aaflow_engine(name: str) -> Communicator | None:
    """This process alone, or the ranks of its MPI job, with Cylon to shuffle their rows or without."""
    if name == "local":
        return LocalCommunicator()
    if name in ("mpi", "cylon"):
        if is_child():
            # Importing mpi4py would start MPI in its parent's name, and break the parent's.
            raise RuntimeError(
                f'engine "{name}": this process was started by a rank, and is none itself: use Executor(engine="local")'
            )
        try:
            from aaflow_plugins.engines.mpi import connect
        except ImportError as error:
            raise ImportError(f"engine {name!r} needs mpi4py ({error}): pip install 'aaflow-plugins[mpi]'") from error
        except RuntimeError as error:  # mpi4py found no MPI library
            raise ImportError(f"engine {name!r}: {error}: pip install 'aaflow-plugins[mpi]' brings one") from error
        if name == "mpi":
            return connect()
        from aaflow_plugins.engines.cylon import connect as connect_cylon

        return connect_cylon()
    return None


@hookimpl
def aaflow_capabilities() -> list[tuple[str, str, str]]:
    """Which engines can be used. In this process MPI is not started, nor pycylon imported."""
    mpi = _mpi()
    return [("engine", "local", "ready"), ("engine", "mpi", mpi), ("engine", "cylon", _cylon(mpi))]


def _mpi() -> str:
    try:
        found = f"mpi4py {version('mpi4py')}"
    except PackageNotFoundError:
        return "mpi4py is not installed: pip install 'aaflow-plugins[mpi]'"
    try:
        launcher()
    except FileNotFoundError as error:
        return f"{found}, but {error}"
    return "ready"


def _cylon(mpi: str) -> str:
    if mpi != "ready":
        return "needs the engine mpi"
    verdict = check()
    if verdict.fault:
        return f"{verdict.fault}; the engine mpi takes its place"
    return "ready" if verdict.string_keys else "ready; its shuffle by strings is wrong, and is not used"
