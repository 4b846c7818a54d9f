"""A Hugging Face Hub on the loopback interface, for the real `huggingface_hub` client.

It speaks the part of the Hub's HTTP protocol that creating, uploading and loading a model repository needs, with the
Hub's own answers: error codes in `X-Error-Code`, 401 for a private repository, a redirect to a "CDN" of another
origin for LFS files, commits that are atomic. Everything is held in memory.

    with Hub() as hub:
        hub.tokens["secret"] = Account("maker", orgs={"org"})
        HfApi(endpoint=hub.url, token="secret").create_repo("org/model")

`hub.faults["PUT", "/lfs/"] = ["drop", 500, "lost"]` makes the next three uploads fail: the first loses its connection
after half of the body, the second is answered with 500, the third is done but its answer is lost; "half" breaks off
in the middle of the answer, "hang" never answers. `hub.requests` lists all requests (method, path, whether a token
came along), `hub.ranges` the ranges that were asked for.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

import yaml


@dataclass(frozen=True)
class Account:
    """Who a token belongs to; `role` is "write" or "read"."""

    name: str
    role: str = "write"
    orgs: frozenset[str] | set[str] = frozenset()

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and (namespace == self.name or namespace in self.orgs)


@dataclass(frozen=True)
class File:
    """One file of a commit: its content, and the sha256 if it is stored by LFS."""

    content: bytes
    sha256: str | None = None

    @property
    def oid(self) -> str:
        """Git's blob id: of the content, or of the LFS pointer."""
        stored = self.content
        if self.sha256:
            stored = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def describe(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """A repository: its commits (each a whole tree) and the branches that point to them."""

    private: bool = False
    visibility: str | None = None
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, tree: dict[str, File], message: str) -> str:
        listing = "".join(f"{path} {tree[path].oid}\n" for path in sorted(tree))
        seed = f"{self.refs.get(ref)}\n{message}\n{len(self.commits)}\n{listing}"
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[oid], self.messages[oid], self.refs[ref] = tree, message, oid
        return oid

    def resolve(self, revision: str) -> str:
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return oid


class Answer(Exception):
    """A response; raised from anywhere to end the request."""

    def __init__(self, status: int, body=b"", headers: dict[str, str] | None = None):
        super().__init__(status)
        self.status, self.headers = status, dict(headers or {})
        if not isinstance(body, bytes):
            if status >= 400 and "error" in body:
                self.headers.setdefault("X-Error-Message", body["error"])
            self.headers.setdefault("Content-Type", "application/json")
            body = json.dumps(body).encode()
        self.body = body


class Hub:
    """The server; a context manager. `url` is its endpoint."""

    def __init__(self):
        self.tokens: dict[str, Account] = {}
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: dict[tuple[str, str], list[str | int]] = {}
        self.requests: list[tuple[str, str, bool]] = []
        self.ranges: list[str] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # Another origin for the client: it must follow the redirect without its token, as with the real CDN.
        self.cdn = f"http://localhost:{port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path → content of a repository, without the `.gitattributes` that every new repository has."""
        repo = self.repos[repo_id]
        tree = repo.commits[repo.resolve(revision)]
        return {path: file.content for path, file in tree.items() if path != ".gitattributes"}

    def count(self, method: str, part: str) -> int:
        """How many requests of a method had `part` in their path."""
        return sum(m == method and part in path for m, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        self.path, _, self.query = self.path.partition("?")
        self.path = unquote(self.path) if "/resolve/" not in self.path else self.path
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, "Authorization" in self.headers))
            if "Range" in self.headers:
                self.hub.ranges.append(self.headers["Range"])
            fault = self._next_fault()
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "hang":  # the connection is accepted, and no answer ever comes
            self.hub.closing.wait(60)
            self.close_connection = True
            return
        if fault == "drop":
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        self.payload = self._read_chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        try:
            if isinstance(fault, int):
                raise Answer(fault, {"error": "injected fault"})
            with self.hub.lock:
                self._route()
        except Answer as answer:
            if fault == "lost":
                self.close_connection = True
                self.connection.close()
            else:
                self._send(answer, stop_halfway=fault == "half")

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _next_fault(self) -> str | int | None:
        for (method, prefix), planned in self.hub.faults.items():
            if planned and method == self.command and self.path.startswith(prefix):
                return planned.pop(0)
        return None

    def _send(self, answer: Answer, stop_halfway: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", answer.headers.get("Content-Length", str(len(answer.body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if stop_halfway else answer.body)
            self.close_connection |= stop_halfway

    # --- who asks, and for what -----------------------------------------------------------------------------------

    def _account(self) -> Account | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        account = self.hub.tokens.get(header.removeprefix("Bearer "))
        if account is None:
            raise Answer(401, {"error": "Invalid credentials in Authorization header"})
        return account

    def _writer(self, repo_id: str) -> Account:
        account = self._account()
        if account is None:
            raise Answer(401, {"error": "Invalid username or password."})
        if not account.may_write(repo_id.split("/")[0]):
            error = "You don't have the rights to write to this repository. Use a token with the write role."
            raise Answer(403, {"error": error})
        return account

    def _repo(self, repo_id: str) -> Repo:
        account = self._account()
        repo = self.hub.repos.get(self.kind + repo_id)
        namespace = repo_id.split("/")[0]
        if repo is not None and repo.private and (account is None or namespace not in {account.name, *account.orgs}):
            repo = None
        if repo is None:
            status = 404 if account else 401  # the Hub does not tell strangers what exists
            raise Answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repo

    def _json(self) -> dict:
        return json.loads(self.payload)

    def _route(self) -> None:
        # A Space of the same name is another repository, under the same routes.
        self.kind, path = "", self.path
        for place in ("/api/spaces/", "/spaces/"):
            if path.startswith(place):
                self.kind, path = "spaces/", place.replace("spaces", "models", 1) + path.removeprefix(place)
                path = path.removeprefix("/models") if place == "/spaces/" else path
        for method, pattern, handler in _ROUTES:
            if self.command in method.split() and (match := re.fullmatch(pattern, path)):
                getattr(self, handler)(*match.groups())
        raise Answer(404, {"error": f"No such endpoint: {self.command} {self.path}"})

    # --- accounts and repositories --------------------------------------------------------------------------------

    def whoami(self) -> None:
        account = self._account()
        if account is None:
            raise Answer(401, {"error": "Invalid username or password."})
        orgs = [{"type": "org", "name": name, "roleInOrg": account.role} for name in sorted(account.orgs)]
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
        raise Answer(200, {"type": "user", "name": account.name, "orgs": orgs, "auth": token})

    def create_repo(self) -> None:
        asked = self._json()
        account = self._account()
        namespace = asked.get("organization") or (account.name if account else "")
        repo_id = f"{namespace}/{asked['name']}"
        self._writer(repo_id)
        url = f"{self.hub.url}/{repo_id}"
        key = f"spaces/{repo_id}" if asked.get("type") == "space" else repo_id
        if key in self.hub.repos:
            raise Answer(409, {"error": "You already created this model repo", "url": url})
        if asked.get("type") == "space" and asked.get("sdk") not in ("gradio", "docker", "static"):
            raise Answer(400, {"error": "a Space needs an sdk"})
        repo = self.hub.repos[key] = Repo(asked.get("visibility") == "private", asked.get("visibility"))
        repo.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n")}, "initial commit")
        raise Answer(200, {"url": url, "name": repo_id})

    def create_branch(self, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id)
        self._writer(repo_id)
        if branch in repo.refs:
            raise Answer(409, {"error": f"Reference already exists: {branch}"})
        repo.refs[branch] = repo.resolve(self._json().get("startingPoint", "main"))
        raise Answer(200, {})

    def model_info(self, repo_id: str, revision: str | None = None) -> None:
        repo = self._repo(repo_id)
        sha = repo.resolve(revision or "main")
        tree = repo.commits[sha]
        card = _metadata(tree["README.md"].content) if "README.md" in tree else {}
        info = {
            "_id": "0",
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": sha,
            "private": repo.private,
            "tags": card.get("tags", []),
            "siblings": [{"rfilename": path} for path in sorted(tree)],
        }
        info |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
        raise Answer(200, info)

    def validate_yaml(self) -> None:
        try:
            card = _metadata(self._json()["content"].encode())
        except yaml.YAMLError as error:
            raise Answer(400, {"errors": [{"message": str(error)}], "warnings": []}) from error
        warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        wrong = [
            {"message": f'"{key}" must be a string'}
            for key in ("license", "pipeline_tag", "library_name")
            if not isinstance(card.get(key, ""), str)
        ]
        raise Answer(400 if wrong else 200, {"errors": wrong, "warnings": warnings})

    def tree(self, repo_id: str, revision: str, folder: str | None = None) -> None:
        repo = self._repo(repo_id)
        sha = repo.resolve(revision)
        tree = repo.commits[sha]
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in tree.items() if path.startswith(prefix)}
        if prefix and not inside:
            raise Answer(404, {"error": f"{folder} does not exist"}, _no_entry(sha))
        recursive = parse_qs(self.query).get("recursive", ["false"])[0].lower() == "true"
        entries = []
        for path, file in sorted(inside.items()):
            below = path.removeprefix(prefix)
            if recursive or "/" not in below:
                entries.append(file.describe(path))
            else:
                sub = {"type": "directory", "path": prefix + below.split("/")[0], "size": 0, "oid": "0" * 40}
                if sub not in entries:
                    entries.append(sub)
        raise Answer(200, entries)

    def paths_info(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        tree = repo.commits[repo.resolve(revision)]
        asked = parse_qs(self.payload.decode()).get("paths", [])
        raise Answer(200, [tree[path].describe(path) for path in asked if path in tree])

    # --- upload ---------------------------------------------------------------------------------------------------

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        if "create_pr" not in self.query:
            self._writer(repo_id)
        tree = repo.commits[repo.resolve(revision)]
        answer = []
        for asked in self._json()["files"]:
            large = asked["path"].endswith(".safetensors") or asked["size"] > 10_000_000
            entry = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if known := tree.get(asked["path"]):
                entry["oid"] = known.sha256 or known.oid
            answer.append(entry)
        raise Answer(200, {"files": answer})

    def lfs_batch(self, repo_id: str) -> None:
        self._repo(repo_id)
        self._writer(repo_id)
        objects = []
        for asked in self._json()["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.lfs:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}?signature=1", "header": {}},
                    "verify": {"href": f"{self.hub.url}/api/lfs-verify/{repo_id}"},
                }
            objects.append(entry)
        raise Answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.payload).hexdigest() != oid:
            raise Answer(400, {"error": "content does not have the announced sha256"})
        self.hub.lfs[oid] = self.payload
        raise Answer(200)

    def lfs_verify(self, repo_id: str) -> None:
        self._writer(repo_id)
        asked = self._json()
        if len(self.hub.lfs.get(asked["oid"], b"")) != asked["size"]:
            raise Answer(404, {"error": "object is not stored"})
        raise Answer(200, {})

    def commit(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        create_pr = "create_pr" in self.query
        if not create_pr:
            self._writer(repo_id)
        elif self._account() is None:
            raise Answer(401, {"error": "Invalid username or password."})
        head = repo.resolve(revision)
        lines = [json.loads(line) for line in self.payload.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            error = "A commit has happened since. Please refresh and try again."
            raise Answer(412, {"error": error})
        tree = dict(repo.commits[head])
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                tree[path] = File(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise Answer(400, {"error": f"LFS pointer pointed to a file that does not exist: {path}"})
                tree[path] = File(self.hub.lfs[value["oid"]], sha256=value["oid"])
            elif line["key"] == "deletedFile":
                if path not in tree:
                    raise Answer(404, {"error": "A file with this name doesn't exist"}, _no_entry(head))
                del tree[path]
            else:
                raise Answer(400, {"error": f"unknown operation {line['key']}"})
        answer = {"success": True, "hookOutput": "", "pullRequestUrl": None}
        if create_pr:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
            revision = f"refs/pr/{number}"
            repo.refs[revision] = head
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
        oid = repo.commit(revision, tree, header["summary"])
        raise Answer(200, answer | {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"})

    # --- download -------------------------------------------------------------------------------------------------

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repo, path = self._repo(repo_id), unquote(path)
        sha = repo.resolve(unquote(revision))
        file = repo.commits[sha].get(path)
        if file is None:
            raise Answer(404, {"error": "Entry not found"}, _no_entry(sha))
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if not file.sha256:
            self._content(file.content, headers)
        headers |= {
            "X-Linked-Etag": f'"{file.sha256}"',
            "X-Linked-Size": str(len(file.content)),
            "Location": f"{self.hub.cdn}/cdn/{file.sha256}?signature=1",
        }
        raise Answer(302, b"", headers)

    def cdn_get(self, oid: str) -> None:
        if "Authorization" in self.headers:
            raise Answer(400, {"error": "the Hub token was sent to the CDN"})
        self._content(self.hub.lfs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            raise Answer(200, content, headers | {"Content-Type": "application/octet-stream"})
        start, stop = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else len(content), len(content))
        if start >= len(content):
            raise Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        raise Answer(206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})


_ID = r"([\w.-]+/[\w.-]+)"
# In this order: the first that fits. The Hub's revisions may hold slashes ("refs/pr/1"), quoted in the path.
_ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/models/{_ID}/branch/(.+)", "create_branch"),
    ("POST", rf"/api/models/{_ID}/preupload/(.+)", "preupload"),
    ("POST", rf"/api/models/{_ID}/commit/(.+)", "commit"),
    ("POST", rf"/api/models/{_ID}/paths-info/(.+)", "paths_info"),
    ("GET", rf"/api/models/{_ID}/tree/(refs/pr/\d+|[^/]+)(?:/(.+))?", "tree"),
    ("GET", rf"/api/models/{_ID}/revision/(.+)", "model_info"),
    ("GET", rf"/api/models/{_ID}", "model_info"),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"/api/lfs-verify/{_ID}", "lfs_verify"),
    ("PUT", r"/lfs/([0-9a-f]{64})", "lfs_put"),
    ("GET HEAD", r"/cdn/([0-9a-f]{64})", "cdn_get"),
    ("GET HEAD", rf"/{_ID}/resolve/([^/]+)/(.+)", "resolve"),
)


def _no_entry(sha: str) -> dict[str, str]:
    return {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}


def _metadata(readme: bytes) -> dict:
    match = re.match(rb"---\n(.*?)\n---\n", readme, re.DOTALL)
    return (yaml.safe_load(match[1]) or {}) if match else {}
