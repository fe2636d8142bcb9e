"""A loopback server that speaks OpenAI's embeddings and chat APIs, with a stated latency and next to no CPU of its own.

Run it on its own as `python -m benchmarks.openai_server --port 0 --base-ms 20 --item-ms 1.5 --dim 1536` (the first
line it prints is its base URL), or around a block of code with `serving(...)`.

The latency of a request for embeddings is `base_ms + item_ms * items`, counted from the moment its body has arrived;
requests wait side by side, or at most `max_concurrency` of them where the server is given a cap. A vector depends on
the content of its item alone (its text, or its token ids): the same content gives the same unit vector in every
request, so that anything which shuffles, drops or repeats items shows. `chat_completions` has the same for chats.

Vectors come from a pool that is already base64; each item turns its pool vector in one plane by an angle of its own,
which costs a few microseconds, and the ids of compact JSON are never parsed. Client and server share the machine's
cores in a benchmark: what the server spends, the client lacks.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import math
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from aiohttp import web

from benchmarks.chat_completions import Completion, Latency

POOL = 4096
_BODY_LIMIT = 1 << 30
_IDS = b'"input":[['


@dataclass
class Fault:
    """What goes wrong with the requests whose number (from 1) is in `requests`.

    Attributes:
        requests: Numbers of the API's requests concerned, in order of arrival since the last reset.
        kind: `status` (an HTTP error), `count` (one vector too few), `extra` (one too many), `ragged` (the second
            vector one float short), `nan` (a NaN in the last vector), `empty` (no vectors), `text` (not JSON),
            `floats` (floats although base64 was asked for), `unordered` (vectors in reverse order), `null` (null for
            the last vector).
        status: The HTTP status of kind `status`.
        retry_after: Seconds for a `Retry-After` header.
        api: Whose requests: those for chats know the kind `status` alone.
    """

    requests: list[int]
    kind: str = "status"
    status: int = 500
    retry_after: float | None = None
    api: Literal["embeddings", "chat"] = "embeddings"


@dataclass
class Settings:
    """What a running server can be told to change (`POST /settings`).

    Attributes:
        base_ms: Milliseconds of every request for embeddings.
        item_ms: Milliseconds more for each item.
        dim: Floats a vector, where the request does not say.
        max_concurrency: Requests for embeddings that are answered at once; None is no bound.
        chat_latency: How long a chat's answer takes.
        tool_rounds: How often a chat that offers tools is answered by a call of the first before there is a text.
        record: Keep bodies and headers.
        faults: What goes wrong.
    """

    base_ms: float = 20.0
    item_ms: float = 1.5
    dim: int = 1536
    max_concurrency: int | None = None
    chat_latency: Latency = field(default_factory=Latency)
    tool_rounds: int = 0
    record: bool = False
    faults: list[Fault] = field(default_factory=list)


@dataclass
class Traffic:
    """The requests of one API since the last reset.

    Attributes:
        requests: How many have come.
        in_flight: How many have no answer yet.
        max_in_flight: Most of them at any time.
        latency: Seconds of all latencies together, faults left out.
        longest: Seconds of the longest.
    """

    requests: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    latency: float = 0.0
    longest: float = 0.0

    def begin(self) -> int:
        """Count a request in; returns its number, from 1."""
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        return self.requests

    def waits(self, latency: float) -> None:
        """Add the latency of a request that is answered."""
        self.latency += latency
        self.longest = max(self.longest, latency)


class VectorPool:
    """Unit vectors of one dimension, derived from the checksum of an item's content."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        rows = np.random.default_rng(dim).standard_normal((POOL, dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self._radii: list[float] = np.linalg.norm(rows[:, :2].astype(np.float64), axis=1).tolist()
        # Three floats are 12 bytes, which are 16 characters of base64: the head can be changed alone.
        self._thirds: list[float] = (rows[:, 2] if dim > 2 else np.zeros(POOL)).tolist()
        self._head = min(dim, 3)
        self._tails = [base64.b64encode(row[3:].tobytes()) for row in rows]

    def base64(self, content: bytes) -> bytes:
        """The vector of `content` as base64 of little-endian float32."""
        checksum = zlib.crc32(content)
        row = checksum % POOL
        angle = (checksum // POOL) * (2 * math.pi / (2**32 // POOL))
        radius = self._radii[row]
        head = (radius * math.cos(angle), radius * math.sin(angle), self._thirds[row])
        packed = struct.pack(f"<{self._head}f", *head[: self._head])
        return base64.b64encode(packed) + self._tails[row]


def _contents(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The request without its input, and the content of each item of the input."""
    start = body.find(_IDS)
    end = body.find(b"]]", start)
    if start >= 0 and end >= 0 and b" " not in body[start:end]:
        rest = orjson.loads(body[:start] + b'"input":null' + body[end + 2 :])
        return rest, body[start + len(_IDS) : end].split(b"],[")
    request: dict[str, Any] = orjson.loads(body)
    given = request.pop("input")
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(item, (str, list)) for item in given):
        raise ValueError("input must be a string, an array of strings or of arrays of token ids")
    return request, [
        item.encode("utf-8", "surrogatepass") if isinstance(item, str) else orjson.dumps(item)[1:-1] for item in given
    ]


class OpenAIServer:
    """The state of one server and its request handlers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pools: dict[int, VectorPool] = {}
        self._slots: asyncio.Semaphore | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the requests counted and recorded so far."""
        # Requests under way keep counting in the objects that they began with.
        self.embedded, self.chatted = Traffic(), Traffic()
        self.items = 0
        self.bodies: list[bytes] = []
        self.headers: list[list[tuple[str, str]]] = []
        cap = self.settings.max_concurrency
        self._slots = asyncio.Semaphore(cap) if cap else None

    def application(self) -> web.Application:
        """The routes: OpenAI's, Azure's, and those that steer the server."""
        app = web.Application(client_max_size=_BODY_LIMIT)
        app.router.add_post("/v1/embeddings", self.embeddings)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/openai/deployments/{deployment}/embeddings", self.embeddings)
        app.router.add_post("/openai/deployments/{deployment}/chat/completions", self.chat)
        app.router.add_post("/settings", self._change_settings)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/bodies", self._bodies)
        app.router.add_get("/headers", self._headers)
        return app

    def _pool(self, dim: int) -> VectorPool:
        if dim not in self._pools:
            self._pools[dim] = VectorPool(dim)
        return self._pools[dim]

    async def embeddings(self, http: web.Request) -> web.Response:
        """Answer `POST /v1/embeddings`."""
        body = await self._body(http)
        arrived = time.monotonic()
        traffic, slots = self.embedded, self._slots
        number = traffic.begin()
        try:
            if slots is None:
                return await self._embed(body, number, arrived)
            async with slots:
                return await self._embed(body, number, time.monotonic())
        finally:
            traffic.in_flight -= 1

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/chat/completions`."""
        body = await self._body(http)
        arrived = time.monotonic()
        traffic = self.chatted
        number = traffic.begin()
        try:
            fault = self._fault("chat", number)
            if fault is not None:
                return _failure(fault)
            try:
                request = orjson.loads(body)
                completion = Completion(request, self.settings.tool_rounds)
            except (ValueError, TypeError, AttributeError) as error:
                return _refusal(error)
            latency = self.settings.chat_latency.seconds(completion.messages)
            traffic.waits(latency)
            if not request.get("stream"):
                await _until(arrived + latency)
                return web.Response(body=completion.whole(), content_type="application/json")
            usage = bool((request.get("stream_options") or {}).get("include_usage"))
            return await self._stream(http, completion.events(usage=usage), arrived, latency)
        finally:
            traffic.in_flight -= 1

    async def _stream(
        self, http: web.Request, events: list[bytes], arrived: float, latency: float
    ) -> web.StreamResponse:
        """Send the events spread evenly over the latency; the last when all of it has passed."""
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(http)
        for sent, event in enumerate(events, 1):
            await _until(arrived + latency * sent / len(events))
            await reply.write(event)
        await reply.write_eof()
        return reply

    async def _body(self, http: web.Request) -> bytes:
        body = await http.read()
        if self.settings.record:
            self.headers.append([("path", http.raw_path), *http.headers.items()])
            self.bodies.append(body)
        return body

    def _fault(self, api: str, number: int) -> Fault | None:
        faults = self.settings.faults
        return next((fault for fault in faults if fault.api == api and number in fault.requests), None)

    async def _embed(self, body: bytes, number: int, started: float) -> web.Response:
        fault = self._fault("embeddings", number)
        if fault is not None and fault.kind == "status":
            await _until(started + self.settings.base_ms / 1000)
            return _failure(fault)
        try:
            request, contents = _contents(body)
            pool = self._pool(int(request.get("dimensions") or self.settings.dim))
        except (ValueError, TypeError, KeyError) as error:
            return _refusal(error)
        self.items += len(contents)
        latency = (self.settings.base_ms + self.settings.item_ms * len(contents)) / 1000
        self.embedded.waits(latency)
        vectors = [pool.base64(content) for content in contents]
        as_floats = request.get("encoding_format", "float") != "base64"
        reply = _reply(vectors, contents, str(request.get("model")), as_floats, fault.kind if fault else None)
        await _until(started + latency)
        return web.Response(body=reply, content_type="application/json")

    async def _change_settings(self, http: web.Request) -> web.Response:
        changes = orjson.loads(await http.read())
        faults = [Fault(**fault) for fault in changes.pop("faults", [])]
        if "chat_latency" in changes:
            changes["chat_latency"] = Latency(**changes["chat_latency"])
        self.settings = Settings(**{**vars(self.settings), **changes, "faults": faults})
        self.reset()
        return web.Response()

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                **vars(self.embedded),
                "items": self.items,
                "chat": vars(self.chatted),
                "cpu_seconds": time.process_time(),
            }
        )

    async def _bodies(self, _: web.Request) -> web.Response:
        # JSON text holds no raw newline: one body a line.
        return web.Response(body=b"\n".join(self.bodies))

    async def _headers(self, _: web.Request) -> web.Response:
        return web.json_response(self.headers)


async def _until(moment: float) -> None:
    remaining = moment - time.monotonic()
    if remaining > 0:
        await asyncio.sleep(remaining)


def _failure(fault: Fault) -> web.Response:
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    error = {"error": {"message": f"injected fault {fault.status}", "type": "injected", "code": None}}
    return web.json_response(error, status=fault.status, headers=headers)


def _refusal(error: Exception) -> web.Response:
    detail = {"error": {"message": str(error), "type": "invalid_request_error", "code": None}}
    return web.json_response(detail, status=400)


def _reply(vectors: list[bytes], contents: list[bytes], model: str, as_floats: bool, fault: str | None) -> bytes:
    if fault == "text":
        return b"not JSON at all"
    if fault == "count":
        vectors = vectors[:-1]
    elif fault == "extra":
        vectors = [*vectors, vectors[0]]
    elif fault == "empty":
        vectors = []
    elif fault == "unordered":
        vectors = vectors[::-1]
    elif fault == "ragged" and len(vectors) > 1:
        vectors = [vectors[0], base64.b64encode(base64.b64decode(vectors[1])[:-4]), *vectors[2:]]
    elif fault == "nan":
        damaged = base64.b64decode(vectors[-1])[:-4] + struct.pack("<f", math.nan)
        vectors = [*vectors[:-1], base64.b64encode(damaged)]
    if as_floats or fault == "floats":
        # Shortest decimals, as a model's JSON has them: most are no float32 once read as a double.
        embeddings = [
            orjson.dumps(np.frombuffer(base64.b64decode(vector), np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
            for vector in vectors
        ]
    else:
        embeddings = [b'"%b"' % vector for vector in vectors]
    if fault == "null":
        embeddings[-1] = b"null"
    data = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % item for item in enumerate(embeddings))
    tokens = sum(content.count(b",") + 1 for content in contents)
    usage = b'{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, orjson.dumps(model), usage)


async def _serve(settings: Settings, port: int, until_stdin_closes: bool) -> None:
    runner = web.AppRunner(OpenAIServer(settings).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    stop = asyncio.Event()
    if until_stdin_closes:
        loop = asyncio.get_running_loop()

        def watch() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch, daemon=True).start()
    await stop.wait()
    await runner.cleanup()


@dataclass(frozen=True)
class Connection:
    """A running server, seen from the process that started it."""

    url: str

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        return f"{self.url}/v1"

    def configure(self, **settings: Any) -> None:
        """Change `Settings` by name, drop the faults not named again, and start counting anew."""
        faults = [vars(fault) for fault in settings.pop("faults", [])]
        body = orjson.dumps({**settings, "faults": faults})
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/settings", data=body)):
            pass

    def stats(self) -> dict[str, Any]:
        """`Traffic` of embeddings, their items, `Traffic` of chats as `chat`, and the server's CPU seconds."""
        with urllib.request.urlopen(f"{self.url}/stats") as reply:
            stats: dict[str, Any] = orjson.loads(reply.read())
            return stats

    def bodies(self) -> list[bytes]:
        """The bodies recorded since the last `configure(record=True)`, in order of arrival."""
        with urllib.request.urlopen(f"{self.url}/bodies") as reply:
            body: bytes = reply.read()
        return body.split(b"\n") if body else []

    def headers(self) -> list[list[list[str]]]:
        """Path and headers of the same requests, each a name and a value, in the order in which they were sent."""
        with urllib.request.urlopen(f"{self.url}/headers") as reply:
            headers: list[list[list[str]]] = orjson.loads(reply.read())
            return headers


@contextmanager
def serving(base_ms: float = 20.0, item_ms: float = 1.5, dim: int = 1536) -> Iterator[Connection]:
    """Run the server in a process of its own for the length of the block."""
    command = [sys.executable, "-m", "benchmarks.openai_server"]
    command += [
        "--base-ms",
        str(base_ms),
        "--item-ms",
        str(item_ms),
        "--dim",
        str(dim),
        "--until-stdin-closes",
    ]
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the loopback server did not start (exit status {process.wait()})")
        yield Connection(url)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def main() -> None:
    """Parse the command line and serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--base-ms", type=float, default=20.0)
    parser.add_argument("--item-ms", type=float, default=1.5)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--max-concurrency", type=int, default=None)
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started it")
    options = parser.parse_args()
    settings = Settings(options.base_ms, options.item_ms, options.dim, options.max_concurrency)
    asyncio.run(_serve(settings, options.port, options.until_stdin_closes))


if __name__ == "__main__":
    main()
