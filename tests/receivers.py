"""A real HTTP or HTTPS server that receives webhooks, on an address of the loopback interface."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ALLOWED = "127.0.0.1/32"  # the receivers' own network; the rest of the loopback interface counts as private
PRIVATE_HOST = "127.0.0.2"

Verdict = int | tuple[int, dict[str, str]] | None


@dataclass(frozen=True)
class Received:
    """One call: its headers (in lower case) and its body."""

    headers: dict[str, str]
    body: bytes
    path: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """The server's address and what it received. `accepted`: the calls that it answered with 2xx."""

    url: str
    port: int
    received: list[Received] = field(default_factory=list)
    accepted: list[Received] = field(default_factory=list)


@contextmanager
def receiving(
    answer: Callable[[Received], Verdict] = lambda call: 204,
    *,
    host: str = "127.0.0.1",
    certificate: ssl.SSLContext | None = None,
) -> Iterator[Receiver]:
    """A running server. `answer` gives the status, also with headers; None closes the connection without an answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:
                return  # the caller gave up while it sent
            call = Received({name.lower(): value for name, value in self.headers.items()}, body, self.path)
            receiver.received.append(call)
            verdict = answer(call)
            if verdict is None:
                return
            status, headers = verdict if isinstance(verdict, tuple) else (verdict, {})
            if 200 <= status < 300:
                receiver.accepted.append(call)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        # A proxy and the target of a followed redirect would be called by these.
        do_GET = do_CONNECT = do_POST  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a caller that gave up

    with Server((host, 0), Handler) as server:
        if certificate is not None:
            # The handshake is the connection's thread's, so that a caller that refuses it doesn't stop the server.
            server.socket = certificate.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        port = int(server.server_address[1])
        receiver = Receiver(f"{'https' if certificate else 'http'}://{host}:{port}/hook?key=k", port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
