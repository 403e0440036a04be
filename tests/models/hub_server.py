"""A small server that speaks a model hub's protocol on loopback: model info, tree, files with ETags, refusals."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT, OLDER = "a" * 40, "b" * 40


@dataclass
class Repository:
    """What the server has of a name.

    Attributes:
        folder: its files on the main branch.
        older: those of the tag "v1", another commit.
        access: "open", "gated" (an account must have accepted its terms) or "private" (not seen without a token).
        token: that opens what is not open.
        breaks: name of a file -> bytes after which the connection breaks off, once.
        status: an error to answer everything with.
    """

    folder: Path
    older: Path | None = None
    access: str = "open"
    token: str = "hf_right"
    breaks: dict[str, int] = field(default_factory=dict)
    status: int = 0

    def commits(self) -> dict[str, Path]:
        found = {COMMIT: self.folder, "main": self.folder}
        return found | ({OLDER: self.older, "v1": self.older} if self.older else {})


class Hub(ThreadingHTTPServer):
    """The server; ``requests`` are those answered, as "GET path"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files_sent(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order."""
        paths = [request.split()[1] for request in self.requests if request.startswith("GET ")]
        return [path.rsplit("/", 1)[1] for path in paths if "/resolve/" in path]

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path != "/api/agent-harnesses":  # the client's own, once a day, about nothing that is fetched
            self.server.requests.append(f"{self.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(?:/.*)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        if not match or not (repository := self.server.repositories.get(match[1])):
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if repository.status:
            return self.refuse(repository.status, "", "out of order")
        if not self.may_read(repository):
            gated = repository.access == "gated"
            if not gated:
                return self.refuse(401, "RepoNotFound", "Repository not found")
            if file:  # of a gated model the list of files is public
                return self.refuse(403, "GatedRepo", "Access to this model is restricted")
        revision = (info[3] if info else match[2]) or "main"
        folder = repository.commits().get(revision)
        if folder is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = COMMIT if folder == repository.folder else OLDER
        if file:
            return self.send_file(repository, folder, commit, file[3], body)
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [p.relative_to(folder).as_posix() for p in paths]
        if info[2] == "tree":
            entries = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": etag(path)}
                for name, path in zip(names, paths, strict=True)
            ]
            return self.send_json(entries)
        siblings = [{"rfilename": name} for name in names]
        return self.send_json({"id": match[1], "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def may_read(self, repository: Repository) -> bool:
        given = self.headers.get("Authorization") == f"Bearer {repository.token}"
        return repository.access == "open" or given

    def send_file(self, repository: Repository, folder: Path, commit: str, name: str, body: bool) -> None:
        path = folder / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found", commit)
        content = path.read_bytes()
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(path)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        if name in repository.breaks:
            kept = repository.breaks.pop(name)
            self.wfile.write(content[start:kept])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content[start:])

    def send_json(self, content: object) -> None:
        self.send_bytes(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        if commit:
            headers["X-Repo-Commit"] = commit
        self.send_bytes(status, json.dumps({"error": message}).encode(), {k: v for k, v in headers.items() if v})

    def send_bytes(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def etag(path: Path) -> str:
    """Git's name of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
