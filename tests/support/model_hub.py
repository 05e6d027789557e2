#!/usr/bin/env python3
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for ModelScope and for Hugging Face: as much of both protocols as their client libraries use.

It serves one model from a directory, under any owner and name but those it says are missing, and does what
hubs and what is between do at times: cut a connection off, send other bytes, refuse, be slow.

    model_hub.py --directory model --port 8899 [--rate 1000000] [--fault '{"cut": {"llm.pt": [65536]}}']
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import threading
import time
import typing as t
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What is larger than this Hugging Face keeps apart, knows by its SHA-256 and redirects to.
LFS_BYTES = 4096
PIECE = 16384


@dataclass
class Faults:
    """What goes wrong. Each is used up as it happens, but for what lasts."""

    # By file: after so many bytes the connection is cut, once for each figure.
    cut: dict[str, list[int]] = field(default_factory=dict)
    # By file: what its content is instead, as often as given; -1: always. Its listing stays as it is.
    wrong: dict[str, int] = field(default_factory=dict)
    # Status codes that the next requests get.
    answers: list[int] = field(default_factory=list)
    # Bytes per second; 0: as fast as it goes.
    rate: int = 0
    # Repositories and revisions that are not there.
    missing: list[str] = field(default_factory=list)
    # Where not empty, requests without this token are refused.
    token: str = ""


class ModelHub:
    """Serves until the end of the `with` block."""

    def __init__(self, directory: Path, port: int = 0, faults: Faults | None = None) -> None:
        self.directory = directory
        self.faults = faults or Faults()
        self.lock = threading.Lock()
        # (method, path, Range) of every request for a file's content.
        self.contents: list[tuple[str, str, str]] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> ModelHub:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_ignored: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self) -> dict[str, bytes]:
        found = sorted(path for path in self.directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in found}

    def asked_for(self, name: str) -> list[str]:
        """The ranges in which a file's content was asked for, empty for the whole."""
        return [asked for method, path, asked in self.contents if method == "GET" and path == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        faults = self.hub.faults
        with self.hub.lock:
            status = faults.answers.pop(0) if faults.answers else 0
        if status:
            return self.say(status, {"error": "as told"}, {"Retry-After": "1"} if status == 429 else {})
        if any(f"/{missing}" in path or missing in query.get("Revision", []) for missing in faults.missing):
            return self.say(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        if faults.token and not self.knows_me():
            return self.say(401, {"error": "who are you"})
        if match := re.fullmatch(r"/api/models/[^/]+/[^/]+/revision/([^/]+)", path):
            return self.list_as_hugging_face()
        if match := re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", path):
            return self.resolve(match[1])
        if match := re.fullmatch(r"/lfs/(.+)", path):
            return self.content(match[1], {})
        if re.fullmatch(r"/api/v1/models/[^/]+/[^/]+/repo/files", path):
            return self.list_as_modelscope()
        if re.fullmatch(r"/api/v1/models/[^/]+/[^/]+/repo", path):
            return self.content(query["FilePath"][0], {})
        return self.say(404, {"error": f"no {path}"})

    def knows_me(self) -> bool:
        token = self.hub.faults.token
        return any(
            token in value
            for value in (self.headers.get("Authorization", ""), self.headers.get("Cookie", ""))
        )

    def list_as_hugging_face(self) -> None:
        siblings = []
        for name, content in self.hub.files().items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            sibling: dict[str, t.Any] = {"rfilename": name, "size": len(content), "blobId": git}
            if len(content) > LFS_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        self.say(200, {"_id": "1", "id": "owner/model", "sha": COMMIT, "siblings": siblings, "tags": []})

    def list_as_modelscope(self) -> None:
        files = [
            {
                "Name": name.rpartition("/")[2],
                "Path": name,
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
                "Revision": COMMIT,
            }
            for name, content in self.hub.files().items()
        ]
        folders = sorted({str(Path(file["Path"]).parent) for file in files} - {"."})
        trees = [{"Name": name, "Path": name, "Type": "tree", "Size": 0, "Sha256": ""} for name in folders]
        self.say(200, {"Code": 200, "Success": True, "Data": {"Files": [*trees, *files]}})

    def resolve(self, name: str) -> None:
        content = self.hub.files().get(name)
        if content is None:
            return self.say(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if len(content) <= LFS_BYTES:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            return self.content(name, {**headers, "ETag": f'"{git}"'})
        sha256 = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256}"', "ETag": f'"{sha256}"'}
        return self.say(302, None, {**headers, **linked, "Location": f"{self.hub.url}/lfs/{name}"})

    def content(self, name: str, headers: dict[str, str]) -> None:
        whole = self.hub.files().get(name)
        if whole is None:
            return self.say(404, {"Code": 404, "Message": "no such file", "Success": False})
        faults, asked = self.hub.faults, self.headers.get("Range", "")
        with self.hub.lock:
            self.hub.contents.append((self.command, name, asked))
            if faults.wrong.get(name):
                faults.wrong[name] -= self.command == "GET"
                whole = bytes([whole[0] ^ 1]) + whole[1:]
            cuts = faults.cut.get(name)
            cut = cuts.pop(0) if cuts and self.command == "GET" else None
        first, last = 0, len(whole) - 1
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
            first, last = int(match[1]), int(match[2] or last)
            if first > last:
                return self.say(416, None, {"Content-Range": f"bytes */{len(whole)}"})
        part = whole[first : last + 1]
        self.send_response(206 if asked else 200)
        for key, value in {**headers, "Content-Length": str(len(part)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        sent = part if cut is None else part[:cut]
        for begin in range(0, len(sent), PIECE):
            piece = sent[begin : begin + PIECE]
            self.wfile.write(piece)
            if faults.rate:
                time.sleep(len(piece) / faults.rate)
        if cut is not None:
            self.close_connection = True
        return None

    def say(self, status: int, body: t.Any, headers: t.Mapping[str, str] | None = None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(text))}.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):  # The client was killed.
            super().handle_one_request()

    def log_message(self, *_ignored: t.Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=int, default=0, help="bytes per second of each connection")
    parser.add_argument("--fault", type=json.loads, default={}, help="fields of Faults, as JSON")
    arguments = parser.parse_args()
    faults = Faults(**{"rate": arguments.rate, **arguments.fault})
    with ModelHub(arguments.directory, arguments.port, faults):
        threading.Event().wait()


if __name__ == "__main__":
    main()
