"""The engines that come with the core, as a plug-in like any other's."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.launching import is_child, launcher
from aaflow_plugins.engines.local import LocalCommunicator
from aaflow_plugins.hookspecs import hookimpl


@hookimpl
def aaflow_engine(name: str) -> Communicator | None:
    """This process alone, or the ranks of its MPI job."""
    if name == "local":
        return LocalCommunicator()
    if name == "mpi":
        if is_child():
            # Importing mpi4py would start MPI in its parent's name, and break the parent's.
            raise RuntimeError(
                'engine "mpi": this process was started by a rank, and is none itself: use Executor(engine="local")'
            )
        try:
            from aaflow_plugins.engines.mpi import connect
        except ImportError as error:
            raise ImportError(f"engine 'mpi' needs mpi4py ({error}): pip install 'aaflow-plugins[mpi]'") from error
        except RuntimeError as error:  # mpi4py found no MPI library
            raise ImportError(f"engine 'mpi': {error}: pip install 'aaflow-plugins[mpi]' brings one") from error
        return connect()
    return None


@hookimpl
def aaflow_capabilities() -> list[tuple[str, str, str]]:
    """Which engines can be used. MPI itself is not started."""
    local = ("engine", "local", "ready")
    try:
        found = f"mpi4py {version('mpi4py')}"
    except PackageNotFoundError:
        return [local, ("engine", "mpi", "mpi4py is not installed: pip install 'aaflow-plugins[mpi]'")]
    try:
        launcher()
    except FileNotFoundError as error:
        return [local, ("engine", "mpi", f"{found}, but {error}")]
    return [local, ("engine", "mpi", "ready")]
