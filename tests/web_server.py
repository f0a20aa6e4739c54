"""A server of the files of a folder by HTTP, for tests of `http://` and `https://`."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import threading
from collections.abc import Iterator
from typing import Any


class Handler(http.server.SimpleHTTPRequestHandler):
    """Supports byte ranges, as data servers do, and lists no folders."""

    def do_GET(self) -> None:
        """Answers with a file, or a range of it."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None:
            super().do_GET()
            return
        try:
            with open(self.translate_path(self.path), "rb") as file:
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        first, last = (int(number) for number in found.groups())
        part = content[first : last + 1]
        self.send_response(206 if part or not content else 416)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def list_directory(self, path: Any) -> None:
        """Refuses to list a folder."""
        self.send_error(403)

    def log_message(self, *args: Any) -> None:
        """Prints nothing."""


class WithListing(Handler):
    """Lists folders, as a page of links."""

    list_directory = http.server.SimpleHTTPRequestHandler.list_directory


class WithoutRanges(Handler):
    """Answers each request with a whole file."""

    do_GET = http.server.SimpleHTTPRequestHandler.do_GET


@contextlib.contextmanager
def serving(folder: str, handler: type[Handler] = Handler) -> Iterator[str]:
    """Yields the address of a server of the files in a folder."""
    made = functools.partial(handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
