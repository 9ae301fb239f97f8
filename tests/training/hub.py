"""A hub of models on this machine: what the client of huggingface_hub asks of one to upload."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fakes import serving

TOKEN, OWNER = "hf_token", "me"
"""Whoever shows the token may write below this owner."""


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@dataclass
class Hub:
    """Repositories by name, and large files by digest, as clients left them."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def app(self) -> Starlette:
        repo = "/api/models/{owner}/{name}"
        return Starlette(
            routes=[
                Route("/api/repos/create", self.create, methods=["POST"]),
                Route("/api/validate-yaml", self.check_card, methods=["POST"]),
                Route(repo, self.info),
                Route(repo + "/preupload/main", self.modes, methods=["POST"]),
                Route(repo + "/commit/main", self.commit, methods=["POST"]),
                Route("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/blobs/{digest}", self.put, methods=["PUT"]),
            ]
        )

    async def create(self, request: Request) -> Response:
        asked = await request.json()
        name = f"{asked['organization']}/{asked['name']}"
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "Invalid username or password."}, 401)
        if asked["organization"] != OWNER:
            return JSONResponse({"error": f"no rights under {asked['organization']}"}, 403)
        if name in self.repos:
            return JSONResponse({"url": f"{self.url}/{name}"}, 409)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.repos[name] = Repo(private)
        return JSONResponse({"url": f"{self.url}/{name}"})

    async def check_card(self, request: Request) -> Response:
        card = (await request.json())["content"]
        errors = [] if card.startswith("---\n") else [{"message": "no metadata"}]
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    async def info(self, request: Request) -> Response:
        name = _name(request)
        if name not in self.repos:
            missing = {"X-Error-Code": "RepoNotFound"}
            return JSONResponse({"error": "Repository not found"}, 404, missing)
        return JSONResponse({"id": name, "private": self.repos[name].private, "siblings": []})

    async def modes(self, request: Request) -> Response:
        files = (await request.json())["files"]
        return JSONResponse({"files": [_mode(file["path"]) for file in files]})

    async def batch(self, request: Request) -> Response:
        wanted = (await request.json())["objects"]
        placed = [
            {**one, "actions": {"upload": {"href": f"{self.url}/blobs/{one['oid']}"}}}
            for one in wanted
        ]
        return JSONResponse({"transfer": "basic", "objects": placed})

    async def put(self, request: Request) -> Response:
        self.blobs[request.path_params["digest"]] = await request.body()
        return Response()

    async def commit(self, request: Request) -> Response:
        repo = self.repos[_name(request)]
        for line in (await request.body()).splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                repo.files[value["path"]] = self.blobs[value["oid"]]
        repo.commits += 1
        url = f"{self.url}/{_name(request)}/commit/{'1' * 40}"
        return JSONResponse({"commitUrl": url, "commitOid": "1" * 40})


def _name(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    with serving(hub.app()) as hub.url:
        yield hub
