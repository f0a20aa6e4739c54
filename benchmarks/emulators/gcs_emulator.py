"""An emulator of Google Cloud Storage: the part of its JSON API that gcsfs and TensorStore call.

Objects have generations, and writes obey `ifGenerationMatch`. The emulator on PyPI
(gcp-storage-emulator) ignores them, so leases don't work there.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import urllib.parse

_OBJECT = re.compile(r"/(?:download/|upload/)?storage/v1/b/(?P<bucket>[^/]+)/o(?:/(?P<name>.*))?")


class Objects:
    """The content of a bucket.

    Attributes:
      held: {name: (content, generation)}.
      ranges: values of the headers `Range` of reads so far.
    """

    def __init__(self) -> None:
        self.held: dict[str, tuple[bytes, int]] = {}
        self.ranges: list[str] = []
        self._lock, self._writes = threading.Lock(), 1000

    def write(self, name: str, content: bytes, wanted: str | None) -> bool:
        """Writes unless `wanted` is another generation than that of the object (0: none)."""
        with self._lock:
            now = self.held[name][1] if name in self.held else 0
            if wanted is not None and int(wanted) != now:
                return False
            self._writes += 1
            self.held[name] = content, self._writes
            return True


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # each answer is two writes: the second would wait for 40 ms
    objects = Objects()

    def do_GET(self) -> None:
        name, query = self._parsed()
        if self.path == "/ranges":
            self._answer_json(self.objects.ranges)
        elif name is None:
            self._answer_json({"name": "bucket", "location": "HERE", "locationType": "region"})
        elif not name:
            self._list(query)
        elif name not in self.objects.held:
            self._answer(404, b"{}")
        elif query.get("alt") == "media":
            self._send(name)
        else:
            self._answer_json(self._about(name))

    def do_POST(self) -> None:
        name, query = self._parsed()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query.get("uploadType") == "multipart":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip("\"'").encode()
            parts = body.split(b"--" + boundary)[1:3]
            about, body = (part.split(b"\n\n", 1)[1] for part in parts)
            name, body = json.loads(about)["name"], body.removesuffix(b"\n")
        else:
            name = query["name"]
        if self.objects.write(name, body, query.get("ifGenerationMatch")):
            self._answer_json(self._about(name))
        else:
            self._answer(412, b"{}")

    def do_DELETE(self) -> None:
        name, _ = self._parsed()
        found = self.objects.held.pop(name or "", None)
        self._answer(204 if found else 404, b"")

    def _parsed(self) -> tuple[str | None, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        found = _OBJECT.fullmatch(url.path)
        name = urllib.parse.unquote(found["name"] or "") if found else None
        return name, dict(urllib.parse.parse_qsl(url.query))

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items: list[dict[str, str]] = []
        folders: dict[str, None] = {}
        for name in sorted(self.objects.held):
            if not name.startswith(prefix):
                continue
            rest = name.removeprefix(prefix)
            if delimiter and delimiter in rest:
                folders[prefix + rest.partition(delimiter)[0] + delimiter] = None
            else:
                items.append(self._about(name))
        most = int(query.get("maxResults", 1000))
        self._answer_json(
            {"kind": "storage#objects", "items": items[:most], "prefixes": [*folders]}
        )

    def _about(self, name: str) -> dict[str, str]:
        content, generation = self.objects.held[name]
        return {
            "kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(content)),
            "generation": str(generation), "metageneration": "1",
            "updated": "2026-01-01T00:00:00Z", "timeCreated": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    def _send(self, name: str) -> None:
        content, generation = self.objects.held[name]
        headers = {"X-Goog-Generation": str(generation)}
        if asked := self.headers.get("Range"):
            self.objects.ranges.append(asked)
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._answer(206, content[start : end + 1], headers)
        else:
            self._answer(200, content, headers)

    def _answer_json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode())

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def start() -> str:
    """Starts a server with the bucket `gs://bucket` in threads, and returns its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
