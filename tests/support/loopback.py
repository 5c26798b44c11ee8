"""A stand-in for the tracker's server, on the loopback interface.

It speaks as much of the protocol as sending offline runs and reading them back takes, and it can
be told to misbehave.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

KEY = "k" * 40
HANG_UP = -1
"""In place of a status: close the connection without an answer."""
ENTITY = "loopback-team"
_LONG_AGO = "2020-01-01T00:00:00Z"


@dataclass
class Run:
    """A run as the server knows it."""

    name: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: str = "{}"
    state: str = "running"
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def charts(self) -> dict[str, Any]:
        """Charts of one's own by key, as the client describes them."""
        content = json.loads(self.fields.get("config") or "{}")
        return dict(content.get("_wandb", {}).get("value", {}).get("visualize", {}))

    @property
    def config(self) -> dict[str, Any]:
        """The config without the client's own entry."""
        content = json.loads(self.fields.get("config") or "{}")
        return {key: item["value"] for key, item in content.items() if not key.startswith("_")}


@dataclass
class Artifact:
    """An artifact as the server knows it."""

    id: str
    name: str
    run: str
    kind: str
    metadata: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    committed: bool = False


class Server:
    """The server; a context manager.

    Attributes:
        runs: Runs by id.
        artifacts: Artifacts by id.
        views: Reports by id.
        presets: Charts of one's own by id.
        used: Ids of the artifacts that runs used, by run.
        blobs: Everything that was uploaded, by address.
        unknown: Operations it was asked for and does not know.
        misbehave: Called with every path and operation; a status to answer with, :data:`HANG_UP`,
            or None.
        shows: Whether it lists an artifact among those of its run.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.presets: dict[str, dict[str, Any]] = {}
        self.used: dict[str, list[str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.requests = 0
        self.misbehave: Callable[[str, str], int | None] = lambda path, operation: None
        self.shows: Callable[[Artifact], bool] = lambda artifact: artifact.committed
        self._lock = threading.Lock()
        self._dead = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.die()

    def die(self) -> None:
        """Stop, as if killed: nobody listens any more, what was taken is still known."""
        self._dead = True
        self._http.shutdown()
        self._http.server_close()

    def live_again(self) -> None:
        """Listen at the old address again."""
        self._dead = False
        self._http = ThreadingHTTPServer(self._http.server_address, self._handler())
        self._http.daemon_threads = True
        self.__enter__()

    def artifact_files(self, name: str) -> dict[str, bytes]:
        """The content of every file in an artifact."""
        (artifact,) = [a for a in self.artifacts.values() if a.name == name]
        return {file: self.blobs[place] for file, place in artifact.files.items()}

    def answer(
        self, method: str, path: str, key: str | None, body: bytes
    ) -> tuple[int, bytes | dict[str, Any]]:
        """Answer one request."""
        query = json.loads(body) if path == "/graphql" else {}
        operation = str(query.get("operationName") or _operation(query.get("query", "")))
        with self._lock:
            self.requests += 1
            status = self.misbehave(path, operation)
            if status is not None:
                return status, {"error": "misbehaving"}
            if path == "/graphql":
                if key != KEY:
                    return 401, {"errors": [{"message": "who are you"}]}
                return 200, self._graphql(operation, query.get("variables") or {})
            if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                return 200, self._stream(self.runs[match[1]], json.loads(body))
            if path.startswith("/storage/") and method == "PUT":
                self._store(path.removeprefix("/storage/"), body)
                return 200, b""
        return 404, {"error": f"{method} {path}"}

    def _graphql(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        handler = getattr(self, f"_on_{operation}", None)
        if handler is None:
            self.unknown.append(operation)
            return {"data": None, "errors": [{"message": f"unknown operation {operation}"}]}
        try:
            return {"data": handler(values)}
        except KeyError as error:
            # Dropping the connection would make the client try for minutes.
            self.unknown.append(f"{operation}: {error}")
            return {"data": None, "errors": [{"message": f"{operation}: {error}"}]}

    def _stream(self, run: Run, body: dict[str, Any]) -> dict[str, Any]:
        for name, part in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = [json.loads(line) for line in part["content"]]
                run.history[part["offset"] : part["offset"] + len(rows)] = rows
            elif name == "wandb-summary.json":
                run.summary = part["content"][-1]
        if body.get("complete"):
            run.state = "finished" if not body.get("exitcode") else "failed"
        return {"exitcode": None, "limits": {}}

    def _store(self, place: str, body: bytes) -> None:
        self.blobs[place] = body
        if place.startswith("run/"):
            _, run, name = place.split("/", 2)
            self.runs[run].files[name] = body

    def _on_ServerFeaturesQuery(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _on_Viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": _account()}

    def _on_GetDefaultEntity(self, values: dict[str, Any]) -> dict[str, Any]:
        return self._on_Viewer(values)

    def _on_UpsertBucket(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name, values["project"]))
        run.fields |= {key: value for key, value in values.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _on_RunResumeStatus(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        if run is None:
            return {"model": {"id": "project", "name": values["project"], "bucket": None}}
        bucket = self._bucket(run)
        bucket["historyTail"] = json.dumps([json.dumps(row) for row in run.history[-1:]])
        return {"model": {"id": "project", "name": run.project, "bucket": bucket}}

    def _on_CreateCustomChart(self, values: dict[str, Any]) -> dict[str, Any]:
        number = f"{values['entity']}/{values['chartName']}"
        if number in self.presets:
            raise KeyError("a chart of this name already exists")
        self.presets[number] = values
        return {"createCustomChart": {"chart": {"id": number}}}

    def _on_RunFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[_run_of(values)]
        files = [
            {"id": name, "name": name, "sizeBytes": str(len(content)), "directUrl": "", "url": ""}
            | {"mimetype": "", "updatedAt": _LONG_AGO, "md5": ""}
            for name, content in run.files.items()
        ]
        return {
            "project": {"internalId": "1", "run": {"fileCount": len(files), "files": _list(files)}}
        }

    def _on_CreateRunFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": self._place(f"run/{values['run']}/{name}")}
            for name in values["files"]
        ]
        made = {"runID": values["run"], "uploadHeaders": [], "files": files}
        return {"createRunFiles": made}

    def _on_CreateArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        wanted = values["input"]
        names = wanted.get("artifactCollectionNames") or [wanted.get("artifactCollectionName")]
        number = f"artifact-{len(self.artifacts)}"
        self.artifacts[number] = Artifact(
            number,
            names[0],
            wanted["runName"],
            wanted["artifactTypeName"],
            json.loads(wanted.get("metadata") or "{}"),
        )
        made = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _on_ArtifactType(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _on_CreateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:
        place = f"manifest/{values['artifactID']}"
        file = {"id": place, "uploadUrl": self._place(place), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": place, "file": file}}}

    def _on_CreateArtifactFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in values["input"]["artifactFiles"]:
            artifact = self.artifacts[file["artifactID"]]
            place = f"artifact/{artifact.id}/{file['name']}"
            artifact.files[file["name"]] = place
            node = {"name": file["name"], "storagePath": place, "uploadUrl": self._place(place)}
            node |= {"uploadHeaders": [], "uploadMultipartUrls": None}
            nodes.append(node | {"artifact": {"id": artifact.id}})
        return {"createArtifactFiles": {"files": _list(nodes)}}

    def _on_CommitArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[values["artifactID"]]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": ""}}}

    def _on_Run(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(_run_of(values))
        return {"project": {"internalId": "1", "run": self._bucket(run) if run else None}}

    def _on_RunHistoryKeys(self, values: dict[str, Any]) -> dict[str, Any]:
        return self._on_Run(values)

    def _on_RunParquetHistory(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[_run_of(values)]
        return {
            "project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": run.history}}}
        }

    def _on_HistoryPage(self, values: dict[str, Any]) -> dict[str, Any]:
        first, last = values["minStep"], values["maxStep"]
        rows = self.runs[_run_of(values)].history
        page = [json.dumps(row) for row in rows if first <= row["_step"] < last]
        return {"project": {"run": {"history": page}}}

    def _on_SampledHistoryPage(self, values: dict[str, Any]) -> dict[str, Any]:
        spec = json.loads(values["spec"])
        rows = self.runs[_run_of(values)].history
        page = [
            {key: row[key] for key in spec["keys"]}
            for row in rows
            if spec["minStep"] <= row["_step"] <= spec["maxStep"]
        ]
        return {"project": {"run": {"sampledHistory": [page]}}}

    def _on_RunOutputArtifacts(self, values: dict[str, Any]) -> dict[str, Any]:
        run = values["run"]
        nodes = [self._shown(a) for a in self.artifacts.values() if a.run == run and self.shows(a)]
        return {"project": {"run": {"artifacts": _list(nodes)}}}

    def _on_UseArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        wanted = values.get("input") or values
        self.used.setdefault(wanted["runName"], []).append(wanted["artifactID"])
        return {"useArtifact": {"artifact": self._shown(self.artifacts[wanted["artifactID"]])}}

    def _on_RunInputArtifacts(self, values: dict[str, Any]) -> dict[str, Any]:
        nodes = [self._shown(self.artifacts[i]) for i in self.used.get(values["run"], [])]
        return {"project": {"run": {"artifacts": _list(nodes)}}}

    def _on_Runs(self, values: dict[str, Any]) -> dict[str, Any]:
        """Filters are left to the client, which must not rely on them here."""
        here = [run for run in self.runs.values() if run.project == values["project"]]
        chosen = [self._bucket(run) for run in here]
        page = _list(chosen)
        shown = {"internalId": "1", "runCount": len(chosen), "readOnly": False, "runs": page}
        return {"project": shown}

    def _on_GetProjects(self, values: dict[str, Any]) -> dict[str, Any]:
        names = sorted({run.project for run in self.runs.values()})
        return {"models": _list([self._project(name) for name in names])}

    def _on_ProjectInternalId(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": self._project(values["projectName"])}

    def _on_ProjectViews(self, values: dict[str, Any]) -> dict[str, Any]:
        views = [self._view(number) for number in self.views]
        return {"project": {"allViews": _list(views)}}

    def _on_upsertView(self, values: dict[str, Any]) -> dict[str, Any]:
        fresh = base64.b64encode(f"View:{len(self.views):03d}".encode()).decode().rstrip("=")
        number = values.get("id") or fresh
        inserted = number not in self.views
        self.views[number] = values
        return {"upsertView": {"inserted": inserted, "view": self._view(number)}}

    def _on_SpecificReport(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"view": self._view(values["reportId"].rstrip("="))}

    def _view(self, number: str) -> dict[str, Any]:
        view = self.views[number]
        kept = {key: view[key] for key in ("type", "name", "displayName", "description", "spec")}
        user = {"name": "tester", "username": "tester", "photoUrl": None, "email": ""}
        times = {"createdAt": _LONG_AGO, "updatedAt": _LONG_AGO, "previewUrl": None}
        project = {"id": "project", "name": view["projectName"], "entityName": view["entityName"]}
        return {"__typename": "View", "id": number, **kept, **times, "user": user} | {
            "project": project
        }

    def _project(self, name: str) -> dict[str, Any]:
        shown = {"__typename": "Project", "id": "project", "internalId": "1", "name": name}
        shown |= {"entityName": ENTITY, "entity": {"id": "team", "name": ENTITY}}
        shown |= {"createdAt": _LONG_AGO, "isBenchmark": False}
        return shown | {"user": _account()}

    def _shown(self, artifact: Artifact) -> dict[str, Any]:
        sequence = {
            "__typename": "ArtifactSequence",
            "name": artifact.name,
            "project": {"name": self.runs[artifact.run].project, "entity": {"name": ENTITY}},
        }
        sequence["project"] |= {"id": "project", "internalId": "1", "__typename": "Project"}
        shown = {"__typename": "Artifact", "id": artifact.id, "artifactSequence": sequence}
        shown |= {"versionIndex": 0, "artifactType": {"name": artifact.kind}, "description": None}
        shown |= {"metadata": json.dumps(artifact.metadata), "ttlDurationSeconds": -1}
        shown |= {"ttlIsInherited": True, "tags": [], "historyStep": None, "state": "COMMITTED"}
        shown |= {"size": 0, "digest": "", "commitHash": "", "fileCount": len(artifact.files)}
        return shown | {"createdAt": _LONG_AGO, "updatedAt": _LONG_AGO, "aliases": []}

    def _bucket(self, run: Run) -> dict[str, Any]:
        project = {"id": "project", "name": run.project, "entity": {"id": "team", "name": ENTITY}}
        shown = {"__typename": "Run", "id": run.name, "name": run.name, "internalId": "1"}
        shown |= {"displayName": run.fields.get("displayName"), "projectId": "1", "sweepName": None}
        shown |= {"config": run.fields.get("config", "{}"), "summaryMetrics": run.summary}
        shown |= {"systemMetrics": "{}", "description": "", "commit": None}
        shown["notes"] = run.fields.get("notes") or ""
        shown |= {"tags": run.fields.get("tags") or [], "group": run.fields.get("groupName")}
        shown |= {"jobType": run.fields.get("jobType"), "state": run.state, "readOnly": False}
        shown |= {"createdAt": _LONG_AGO, "heartbeatAt": _LONG_AGO, "updatedAt": _LONG_AGO}
        shown |= {"user": {"name": "tester", "username": "tester"}, "wandbConfig": '{"t": 1}'}
        shown |= {"historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0}
        shown |= {"historyTail": "[]", "eventsTail": "[]", "fileCount": len(run.files)}
        last = run.history[-1]["_step"] if run.history else -1
        return shown | {
            "historyKeys": {"sets": [], "keys": {}, "lastStep": last},
            "project": project,
        }

    def _place(self, name: str) -> str:
        return f"{self.url}/storage/{quote(name)}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._respond()

            def do_POST(self) -> None:
                self._respond()

            def do_PUT(self) -> None:
                self._respond()

            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                path = unquote(urlsplit(self.path).path)
                key = _key(self.headers.get("Authorization"))
                status, answer = server.answer(self.command, path, key, body)
                if status == HANG_UP or server._dead:
                    self.close_connection = True
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


def _account() -> dict[str, Any]:
    account = {"id": "account", "name": "tester", "username": "tester", "email": ""}
    account |= {"entity": ENTITY, "flags": "{}", "admin": False, "__typename": "User"}
    account |= {"deletedAt": None, "apiKeys": _list([])}
    return account | {"teams": _list([{"name": ENTITY}])}


def _run_of(values: dict[str, Any]) -> str:
    """Queries call the run by different names."""
    return str(next(values[key] for key in ("name", "run", "runName") if values.get(key)))


def _operation(query: str) -> str:
    match = re.search(r"(?:query|mutation)\s+(\w+)", query)
    return match[1] if match else ""


def _key(header: str | None) -> str | None:
    if header is None or not header.startswith("Basic "):
        return None
    return base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")[2]


def _list(nodes: list[Any]) -> dict[str, Any]:
    edges = [{"node": node, "cursor": str(number)} for number, node in enumerate(nodes)]
    page = {"endCursor": None, "hasNextPage": False}
    return {"totalCount": len(nodes), "edges": edges, "pageInfo": page}
