"""Shards in emulators of Amazon S3 and Google Cloud Storage."""

import http.server
import itertools
import json
import os
import threading
import urllib.parse
from typing import ClassVar

import fsspec
import numpy as np
import pytest
import toy_shards

from data_pipelines.format import storage
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset


def _batches(folder: str) -> list[np.ndarray]:
    dataset = open_dataset(toy_shards.CONFIG, folder, "train")
    batches = pipeline.train_batches(toy_shards.CONFIG, dataset, make_views=toy_shards.plain_views)
    taken = list(itertools.islice(batches, 4))
    batches.close()
    return [b["video"]["global"]["pixels"] for b in taken] + [b["record"] for b in taken]


@pytest.fixture
def local(tmp_path) -> str:
    return toy_shards.write(tmp_path / "local", map(toy_shards.record, range(6)))


@pytest.fixture
def s3(monkeypatch):
    pytest.importorskip("s3fs", reason="the extra 'stores' is not installed")
    server_module = pytest.importorskip("moto.server", reason="no extra 'emulation' is installed")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage.filesystem("s3://").mkdir("bucket")
    yield "s3://bucket"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_s3(s3, local):
    folder = toy_shards.write(f"{s3}/shards", map(toy_shards.record, range(6)))
    assert storage.sizes(folder) == storage.sizes(local)
    for remote, here in zip(_batches(folder), _batches(local), strict=True):
        np.testing.assert_array_equal(remote, here)


class _Gcs(http.server.BaseHTTPRequestHandler):
    """The part of the JSON API of Google Cloud Storage for reading, on files in a folder."""

    folder = ""
    ranges: ClassVar[list[str]] = []

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        _, found, name = url.path.partition("/b/bucket/o")
        name = urllib.parse.unquote(name.removeprefix("/"))
        if not found:
            self._answer(200, json.dumps({"name": "bucket"}).encode())
        elif not name:
            prefix = query.get("prefix", [""])[0]
            names = [f"shards/{n}" for n in sorted(os.listdir(self.folder))]
            items = [self._about(n) for n in names if n.startswith(prefix)]
            self._answer(200, json.dumps({"kind": "storage#objects", "items": items}).encode())
        elif not os.path.exists(self._path(name)):
            self._answer(404, b"{}")
        elif query.get("alt") == ["media"] or "/download/" in url.path:
            self._send_range(storage.read(self._path(name)))
        else:
            self._answer(200, json.dumps(self._about(name)).encode())

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name.removeprefix("shards/"))

    def _about(self, name: str) -> dict:
        size = os.path.getsize(self._path(name))
        return {"kind": "storage#object", "name": name, "bucket": "bucket", "size": str(size)}

    def _send_range(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        if not asked:
            self._answer(200, content)
            return
        self.ranges.append(asked)
        first, last = asked.removeprefix("bytes=").split("-")
        self._answer(206, content[int(first) : int(last) + 1])

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def gs(monkeypatch, local):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read at the import: no gRPC
    gcsfs = pytest.importorskip("gcsfs", reason="the extra 'stores' is not installed")
    monkeypatch.setattr(_Gcs, "folder", local)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gcs)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    yield "gs://bucket"
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_gs(gs, local):
    _Gcs.ranges.clear()
    for remote, here in zip(_batches(f"{gs}/shards"), _batches(local), strict=True):
        np.testing.assert_array_equal(remote, here)
    assert len(_Gcs.ranges) >= 16
    assert storage.sizes(f"{gs}/shards") == storage.sizes(local)
