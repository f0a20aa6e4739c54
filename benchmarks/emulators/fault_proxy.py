"""A proxy before the emulator of a store that injects faults into chosen requests."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable

_NOT_FORWARDED = ("connection", "keep-alive", "transfer-encoding", "content-length")
SLOW = 0.5  # seconds of delay of a slow answer
# Fault of a request, by its method and path: "" for none, "503", "expired", "denied", "lost before"
# and "lost after" (a connection, before and after the store has acted), "slow", "cut" or "stall"
# (an answer that is delayed, or ends in the middle, or stops there), "silent" (no answer, and an
# open connection).
Choose = Callable[[str, str], str]
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Proxy:
    """A proxy in threads of this process.

    Attributes:
      url: of the proxy.
      choose: returns the fault of a request.
      seen: faults of the requests so far.
    """

    def __init__(self, upstream: str):
        """Starts it.

        Args:
          upstream: URL of the emulator.
        """
        self.choose: Choose = lambda method, path: ""
        self.seen: list[str] = []
        self._upstream = urllib.parse.urlsplit(upstream).netloc
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def forward(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Returns status, headers and body of the emulator's answer."""
        connection = http.client.HTTPConnection(self._upstream)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Suppresses errors of clients that were killed or have timed out."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # each answer is two writes: the second would wait for 40 ms
    proxy: Proxy

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(length)
        fault = self.proxy.choose(self.command, self.path)
        self.proxy.seen.append(fault)
        if fault in ("503", "expired", "denied"):
            status = {"503": 503, "expired": 400, "denied": 403}[fault]
            text = {"503": b"<Error><Code>ServiceUnavailable</Code></Error>", "expired": EXPIRED}
            self._send(status, [("Content-Type", "application/xml")], text.get(fault, DENIED))
            return
        if fault == "silent":
            self.connection.recv(1)  # returns when the client gives up
        if fault in ("lost before", "silent"):
            self._close()
            return
        if fault == "slow":
            time.sleep(SLOW)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_FORWARDED}
        status, found, content = self.proxy.forward(self.command, self.path, body, headers)
        if fault == "lost after":  # the store has executed the request
            self._close()
        else:
            self._send(status, found, content, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _chunk(self) -> bytes:
        content = self.rfile.read(int(self.rfile.readline().split(b";")[0], 16))
        self.rfile.readline()
        return content

    def _send(
        self, status: int, headers: Iterable[tuple[str, str]], content: bytes, fault: str = ""
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        sizes = {name.lower(): value for name, value in headers}
        held = sizes.get("content-length") if self.command == "HEAD" else None
        self.send_header("Content-Length", held or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            incomplete = fault in ("cut", "stall")
            self.wfile.write(content[: len(content) // 2] if incomplete else content)
        if fault == "stall":
            self.wfile.flush()
            self.connection.recv(1)  # returns when the client gives up
        if fault in ("cut", "stall"):
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass
