"""A Hub on loopback: enough of its API for the unmodified `huggingface_hub` and `datasets` to push and pull.

`python tests/support/hub_server.py --root DIR` prints its address and serves until it is killed. Clients need
`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_DISABLE_XET=1` and a fresh `HF_HOME` before they import anything of Hugging Face's.
"""

import argparse
import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"
KIND = r"(?P<kind>models|datasets|spaces)"
REVISION = r"(?P<revision>[^/?]+)"


@dataclass
class Fault:
    """An answer that the next requests of a kind get instead of their own; without a status the connection is cut."""

    status: int | None
    times: int
    method: str
    path_contains: str


class NotHere(Exception):
    """An error that the Hub would answer with; the client makes its own exception of `code`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Store:
    """Repositories in a folder: blobs by their SHA-256, and for every commit a list of which path holds which blob."""

    root: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)

    def create(self, kind: str, repo: str, private: bool) -> bool:
        """Make a repository; False where it is there already."""
        with self.lock:
            folder = self._folder(kind, repo)
            if folder.exists():
                return False
            folder.mkdir(parents=True)
            (folder / "private").write_text(str(private))
            files = {".gitattributes": self.add_blob(b"*.safetensors filter=lfs\n")}
            if kind == "spaces":  # A static Space begins with a page of the Hub's.
                files |= {name: self.add_blob(name.encode()) for name in ("README.md", "index.html", "style.css")}
            self._write_commit(folder, None, files)
            return True

    def commits(self, kind: str, repo: str) -> list[dict]:
        """Return the commits of a repository, from the first to the last."""
        folder = self._folder(kind, repo)
        if not folder.exists():
            raise NotHere(404, "RepoNotFound", "Repository not found")
        return json.loads((folder / "commits.json").read_text())

    def is_private(self, kind: str, repo: str) -> bool:
        return (self._folder(kind, repo) / "private").read_text() == "True"

    def commit_at(self, kind: str, repo: str, revision: str) -> dict:
        commits = self.commits(kind, repo)
        if revision == "main":
            return commits[-1]
        found = [commit for commit in commits if commit["sha"] == revision]
        if not found:
            raise NotHere(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]

    def commit(self, kind: str, repo: str, changes: list[dict]) -> str:
        """Apply the lines of a commit request, all of them or none."""
        with self.lock:
            head = self.commits(kind, repo)[-1]
            files = dict(head["files"])
            for change in changes:
                value = change["value"]
                if change["key"] == "header":
                    if value.get("parentCommit") not in (None, head["sha"]):
                        raise NotHere(412, "", "A commit has happened since.")
                elif change["key"] == "file":
                    files[_checked(value["path"])] = self.add_blob(base64.b64decode(value["content"]))
                elif change["key"] == "lfsFile":
                    if not self.blob(value["oid"]).exists():
                        raise NotHere(400, "", f"LFS object {value['oid']} was not uploaded.")
                    files[_checked(value["path"])] = value["oid"]
                elif change["key"] == "deletedFile":
                    files.pop(value["path"])
                elif change["key"] == "deletedFolder":
                    files = {path: oid for path, oid in files.items() if not path.startswith(f"{value['path']}/")}
            return self._write_commit(self._folder(kind, repo), head["sha"], files)

    def add_blob(self, content: bytes) -> str:
        oid = hashlib.sha256(content).hexdigest()
        self.blob(oid).write_bytes(content)
        return oid

    def blob(self, oid: str) -> Path:
        return self.root / "blobs" / oid

    def _folder(self, kind: str, repo: str) -> Path:
        return self.root / kind / _checked(repo)

    def _write_commit(self, folder: Path, parent: str | None, files: dict[str, str]) -> str:
        path = folder / "commits.json"
        commits = json.loads(path.read_text()) if path.exists() else []
        sha = hashlib.sha1(json.dumps([parent, len(commits), files], sort_keys=True).encode()).hexdigest()
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps([*commits, {"sha": sha, "files": files}]))
        scratch.rename(path)
        return sha


def _checked(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise NotHere(400, "", f"Bad path {path!r}")
    return path


class Handler(BaseHTTPRequestHandler):
    """Answers one request by the first route that matches."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_: object) -> None:
        """Say nothing: requests are kept in `HubServer.requests`."""

    def _serve(self) -> None:
        self.path_only, query = unquote(urlsplit(self.path).path), urlsplit(self.path).query
        self.query = {key: values[0] for key, values in parse_qs(query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self._fails():
                return
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, self.path_only)
                if match and self.command in method:
                    answer(self, **match.groupdict())
                    return
            raise NotHere(404, "", f"No route for {self.command} {self.path}")
        except NotHere as error:
            self._send(
                error.status, {"error": str(error)}, {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            )

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _fails(self) -> bool:
        for fault in self.server.faults:
            if fault.times and fault.method == self.command and fault.path_contains in self.path:
                fault.times -= 1
                if fault.status is None:
                    self.server.requests.append((self.command, self.path, 0))
                    self.close_connection = True
                    self.connection.close()
                else:
                    self._send(fault.status, {"error": "injected"})
                return True
        return False

    def _send(self, status: int, content: object, headers: dict | None = None) -> None:
        self.server.requests.append((self.command, self.path, status))
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        plain = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**plain, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _check_owner(self) -> None:
        if not self._is_owner:
            raise NotHere(401, "", "Invalid username or password.")

    def _check_readable(self, kind: str, repo: str) -> None:
        self.server.store.commits(kind, repo)
        if self.server.store.is_private(kind, repo) and not self._is_owner:
            # As the Hub does: who may not read is not told that there is something to read.
            raise NotHere(401, "RepoNotFound", "Repository not found")

    def set_fault(self) -> None:
        """Take a fault, in place of an earlier one, from a test that runs in another process."""
        self.server.faults[:] = [Fault(**json.loads(self.body))]
        self._send(200, {})

    def who_am_i(self) -> None:
        self._check_owner()
        self._send(200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def create(self) -> None:
        self._check_owner()
        wish = json.loads(self.body)
        kind = f"{wish.get('type') or 'model'}s"
        repo = f"{wish.get('organization') or 'me'}/{wish['name']}"
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.server.url}/{prefix}{repo}", "name": repo}
        is_private = bool(wish.get("private")) or wish.get("visibility") == "private"
        if self.server.store.create(kind, repo, is_private):
            self._send(200, answer)
        else:
            self._send(409, {"error": "You already created this repo", **answer})

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        self._check_readable(kind, repo)
        commit = self.server.store.commit_at(kind, repo, revision)
        siblings = [self._entry(path, oid, "rfilename") for path, oid in commit["files"].items()]
        facts = {"id": repo, "sha": commit["sha"], "private": self.server.store.is_private(kind, repo)}
        self._send(200, {**facts, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "gated": False})

    def commits(self, kind: str, repo: str, revision: str) -> None:
        self._check_readable(kind, repo)
        about = {"title": "", "message": "", "date": "2026-01-01T00:00:00.000Z", "authors": []}
        self._send(200, [{"id": each["sha"], **about} for each in reversed(self.server.store.commits(kind, repo))])

    def tree(self, kind: str, repo: str, revision: str, folder: str | None = None) -> None:
        self._check_readable(kind, repo)
        files = self.server.store.commit_at(kind, repo, revision)["files"]
        prefix = f"{folder}/" if folder else ""
        inside = {path: oid for path, oid in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise NotHere(404, "EntryNotFound", f"{folder} does not exist")
        folders = {
            "/".join(path.split("/")[:depth])
            for path in inside
            for depth in range(prefix.count("/") + 1, path.count("/") + 1)
        }
        entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        entries += [{"type": "file", **self._entry(path, oid, "path")} for path, oid in sorted(inside.items())]
        if self.query.get("recursive", "").lower() not in ("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
        self._send(200, entries)

    def paths_info(self, kind: str, repo: str, revision: str) -> None:
        self._check_readable(kind, repo)
        files = self.server.store.commit_at(kind, repo, revision)["files"]
        wanted = (
            json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        )
        self._send(
            200, [{"type": "file", **self._entry(path, files[path], "path")} for path in wanted if path in files]
        )

    def refs(self, kind: str, repo: str) -> None:
        self._check_readable(kind, repo)
        head = self.server.store.commit_at(kind, repo, "main")["sha"]
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        self._send(200, {"branches": [branch], "converts": [], "tags": []})

    def _entry(self, path: str, oid: str, name: str) -> dict:
        size = self.server.store.blob(oid).stat().st_size
        entry = {name: path, "size": size, "oid": oid[:40], "blobId": oid[:40]}
        return (
            {**entry, "lfs": {"oid": oid, "sha256": oid, "size": size, "pointerSize": 130}} if _is_lfs(path) else entry
        )

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        self._check_owner()
        self.server.store.commit_at(kind, repo, revision)
        files = json.loads(self.body)["files"]
        modes = {each["path"]: "lfs" if _is_lfs(each["path"]) else "regular" for each in files}
        self._send(
            200,
            {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]},
        )

    def lfs_batch(self, repo: str) -> None:
        self._check_owner()
        objects = []
        for each in json.loads(self.body)["objects"]:
            place = f"{self.server.url}/lfs/{each['oid']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            is_new = not self.server.store.blob(each["oid"]).exists()
            objects.append({**each, "authenticated": True, **({"actions": actions} if is_new else {})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise NotHere(400, "", "The content is not what its hash says.")
        self.server.store.add_blob(self.body)
        self._send(200, {})

    def lfs_verify(self, oid: str) -> None:
        self._send(200 if self.server.store.blob(oid).exists() else 404, {})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        self._check_owner()
        changes = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        oid = self.server.store.commit(kind, repo, changes)
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    def resolve(self, repo: str, revision: str, path: str, kind: str = "models") -> None:
        self._check_readable(kind, repo)
        commit = self.server.store.commit_at(kind, repo, revision)
        headers = {"X-Repo-Commit": commit["sha"]}
        if path not in commit["files"]:
            self._send(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        oid = commit["files"][path]
        content = self.server.store.blob(oid).read_bytes()
        headers |= {"ETag": f'"{oid}"', "X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self._send(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers)

    def resolve_other(self, kind: str, repo: str, revision: str, path: str) -> None:
        self.resolve(repo, revision, path, kind)


def _is_lfs(path: str) -> bool:
    return not path.endswith((".md", ".json", ".jsonl", ".txt", ".html", ".css", ".jinja", ".gitattributes", ".yaml"))


ROUTES = (
    (("POST",), "/faults", Handler.set_fault),
    (("GET",), "/api/whoami-v2", Handler.who_am_i),
    (("POST",), "/api/validate-yaml", Handler.validate_yaml),
    (("POST",), "/api/repos/create", Handler.create),
    (("GET",), f"/api/{KIND}/{NAME}", Handler.info),
    (("GET",), f"/api/{KIND}/{NAME}/revision/{REVISION}", Handler.info),
    (("GET",), f"/api/{KIND}/{NAME}/commits/{REVISION}", Handler.commits),
    (("GET",), f"/api/{KIND}/{NAME}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (("POST",), f"/api/{KIND}/{NAME}/paths-info/{REVISION}", Handler.paths_info),
    (("GET",), f"/api/{KIND}/{NAME}/refs", Handler.refs),
    (("POST",), f"/api/{KIND}/{NAME}/preupload/{REVISION}", Handler.preupload),
    (("POST",), f"/api/{KIND}/{NAME}/commit/{REVISION}", Handler.commit),
    (("POST",), f"/(?:datasets/|spaces/)?{NAME}.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (("POST",), "/lfs/(?P<oid>[0-9a-f]{64})/verify", Handler.lfs_verify),
    (("GET", "HEAD"), f"/(?P<kind>datasets|spaces)/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve_other),
    (("GET", "HEAD"), f"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    store: Store
    token: str
    url: str
    faults: list[Fault]
    requests: list[tuple[str, str, int]]


class HubServer:
    """A Hub that serves from a folder, in a thread, until the `with` block ends.

    Args:
        root (`Path`): Where it keeps repositories.
        token (`str`): The one token that may write.
        port (`int`): 0 takes any free one.
    """

    def __init__(self, root: Path, token: str = "hf_test", port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), Handler)
        self._server.store, self._server.token = Store(Path(root)), token
        self._server.url = self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._server.faults, self._server.requests = [], []
        self.requests = self._server.requests
        self.token = token

    def environment(self, home: Path) -> dict[str, str]:
        """Return what a client's process needs in its environment."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
        }

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    hub = HubServer(options.root, port=options.port)
    print(hub.url, flush=True)
    hub._server.serve_forever()
