"""`hvae push` and `hf://` addresses, on a stand-in for the Hugging Face Hub on loopback."""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from support.small_weights import Said, equal, what_fails
from support.trained import exported

import hvae_jax as hv
from hvae_jax.cli.main import main
from hvae_jax.experiment import hub

said = pytest.fixture(what_fails)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What the library asks of the hub, for one commit of each repository. `files` holds them by repository."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, content: object, status: int = 200, **headers: str) -> None:
        self.answer(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if api else parts[:2])
        if repository not in self.files:
            self.json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif api and "tree" in parts:
            found = self.files[repository].items()
            self.json([{"type": "file", "path": name, "size": len(data), "oid": oid(data)} for name, data in found])
        elif api:
            siblings = [{"rfilename": name} for name in self.files[repository]]
            self.json({"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif (data := self.files[repository].get("/".join(parts[4:]))) is not None:
            self.answer(data, ETag=f'"{oid(data)}"')
        else:
            self.json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(repository, {})
            self.json({"url": f"http://{self.headers['Host']}/{repository}"})
        elif "preupload" in parts:
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            self.json({"files": modes})
        elif "commit" in parts:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files["/".join(parts[2:4])][value["path"]] = base64.b64decode(value["content"])
            self.json({"commitUrl": f"http://{self.headers['Host']}/user/name/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.json({}, 200)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(autouse=True)
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty hub that is asked in place of the real one, with an empty cache and no token of the user's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files = {}
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.chdir(tmp_path)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    yield address
    server.shutdown()
    server.server_close()


def test_what_was_pushed_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit; commands take the address, and their pictures go to the current folder."""
    file = exported(tmp_path)
    main(["push", str(file), "user/my-model", "--recipe", "hvae train tiny", "--licence", "MIT"])
    assert "hf://user/my-model" in capsys.readouterr().out
    assert set(Hub.files["user/my-model"]) >= {"README.md", "card.json", "settings.json", "weights.safetensors"}
    loaded = hv.load("hf://user/my-model")
    equal(loaded.variables, hv.load(file).variables)
    assert (loaded.card.name, loaded.card.recipe, loaded.card.licence) == ("my_model", "hvae train tiny", "MIT")
    main(["show", "hf://user/my-model"])
    assert "Licence of the weights: MIT." in capsys.readouterr().out


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    """One line each."""
    with pytest.raises(FileNotFoundError, match="hf://user/none cannot be fetched"):
        hv.load("hf://user/none")
    Hub.files["user/other"] = {"README.md": b"no model"}
    with pytest.raises(FileNotFoundError, match=r"hf://user/other has no settings\.json, weights\.safetensors"):
        hv.load("hf://user/other")
    for address in ("hf://name", "hf://a/b/c", "hf://"):
        with pytest.raises(ValueError, match="it has to be user/name"):
            hv.load(address)
    assert "is no repository of the hub" in said("push", "tiny", "name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="cannot be fetched"):
        hv.load("hf://user/elsewhere")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    """How to install it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hf://user/name needs huggingface_hub: pip install 'huggingface_hub>=1\.0'"):
        hv.load("hf://user/name")
    assert "`hvae push` needs huggingface_hub" in said("push", "tiny", "user/name")
    assert hub.address_of("runs/x") is None and hub.address_of(Path("hf://user/name@v1")) == "user/name@v1"
