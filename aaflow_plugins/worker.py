"""Worker processes for pure-Python work on Arrow columns.

A worker is this module run by the same interpreter; it gets one pickled function, then Arrow IPC batches on
its standard input, and answers with Arrow IPC batches. Neither documents nor results are pickled, and the
user's main script is not imported again, as it would be by `multiprocessing`.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import struct
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any

import pyarrow as pa

from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.operators import Split

_HEADER = struct.Struct("<qq")  # bytes of log records, bytes of Arrow; a negative second number: failed


def unpicklable(function: Any) -> str | None:
    """Why `function` cannot be sent to a worker, or None if it can."""
    try:
        payload = pickle.dumps(function)
    except Exception as error:
        return f"it cannot be pickled ({error})"
    if b"__main__" in payload:
        return "it uses something defined in the main script, which a worker does not import"
    return None


class RemoteStage:
    """A split stage in worker processes; what a worker cannot do, this process does.

    A worker that fails on a batch, or dies, costs only the time: the batch is split again here, so that the
    result, or the exception, is the native one.
    """

    def __init__(self, operator: Split, count: int, notes: list[str]) -> None:
        assert operator.remote
        self._operator, self._remote, self._notes = operator, operator.remote, notes
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        for _ in range(count):
            worker = _Worker(pickle.dumps(operator.remote.function))
            self._workers.append(worker)
            self._idle.put(worker)

    def call(self, batch: Batch) -> Batch:
        """Split one batch in the next idle worker."""
        worker = self._idle.get()
        try:
            answer = worker.call(self._remote.pack(batch)) if worker else None
        except UnicodeEncodeError:
            answer = None  # text that UTF-8 cannot carry stays here
        except (OSError, EOFError) as error:
            self._notes.append(f"a worker process ended ({error or 'no answer'}); splitting on in this process")
            worker, answer = None, None
        finally:
            self._idle.put(worker)
        return self._operator.call(batch) if answer is None else self._remote.unpack(batch, answer)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()


class _Worker:
    def __init__(self, function: bytes) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aaflow_plugins.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the parent's to handle; closed pipes end the worker
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._requests.write(struct.pack("<q", len(function)) + function)

    def call(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        """The function's result, or None if it raised."""
        payload = _to_ipc(batch)
        self._requests.write(struct.pack("<q", payload.size))
        self._requests.write(memoryview(payload))
        self._requests.flush()
        log_size, size = _HEADER.unpack(_read(self._answers, _HEADER.size))
        records = pickle.loads(_read(self._answers, log_size))
        if size < 0:
            return None
        answer = pa.ipc.open_stream(pa.py_buffer(_read(self._answers, size))).read_next_batch()
        for record in records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        return answer

    def close(self) -> None:
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # a dead worker's pipe cannot be flushed
                pipe.close()
        self._process.wait()


class _Records(logging.Handler):
    """Keeps log records, so that the parent logs them as if it had done the work."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.exc_info = None
        try:
            pickle.dumps(record)
        except Exception:
            record.msg, record.args = record.getMessage(), None
        self.records.append(record)


def _to_ipc(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    logs = _Records()
    logging.getLogger().addHandler(logs)
    logging.getLogger().setLevel(logging.NOTSET + 1)
    function = pickle.loads(_read(requests, struct.unpack("<q", _read(requests, 8))[0]))
    while True:
        try:
            (size,) = struct.unpack("<q", _read(requests, 8))
        except EOFError:
            return
        batch = pa.ipc.open_stream(pa.py_buffer(_read(requests, size))).read_next_batch()
        logs.records = []
        answer: pa.Buffer | None = None
        try:
            answer = _to_ipc(function(batch))
        except Exception:
            logs.records = []  # the parent does the batch again, and logs what it logs
        records = pickle.dumps(logs.records)
        answers.write(_HEADER.pack(len(records), -1 if answer is None else answer.size) + records)
        if answer is not None:
            answers.write(memoryview(answer))
        answers.flush()


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what user code prints must not end up among the answers
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
