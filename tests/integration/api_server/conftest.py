"""Integration tests meet an emulated API server through the operator's real client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from emulated_api_server import EmulatedApiServer


@pytest.fixture
async def server() -> AsyncIterator[EmulatedApiServer]:
    """An emulated API server that listens on loopback; `server.address` says where."""
    found = EmulatedApiServer()
    runner = web.AppRunner(found.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
def kubeconfig(server: EmulatedApiServer, tmp_path: Path, monkeypatch) -> Path:
    """A kubeconfig for the emulated server, named by KUBECONFIG."""
    path = tmp_path / "kubeconfig.json"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server.address}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "canary-token"}}],
    }
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path
