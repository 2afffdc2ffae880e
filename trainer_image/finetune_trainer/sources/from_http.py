"""Files behind HTTP(S) addresses; no redirect to another host."""

from __future__ import annotations

import base64
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from finetune_api.dataset_sources import Source
from finetune_api.meta import SecretRef
from finetune_trainer.errors import AccessError
from finetune_trainer.fetch import Web, opened
from finetune_trainer.mounts import required_secret_value, secret_value
from finetune_trainer.sources.fetched_files import Desk, Fetched, FetchedFile


def fetch_http(source: Source, desk: Desk) -> Fetched:
    """Return a copy of every address."""
    addresses = source.http
    assert addresses is not None  # noqa: S101 - the table of sources chose by this member
    web = Web(allowed=desk.allowed, headers=_authorisation(addresses.secret_ref))
    return Fetched(files=tuple(_kept(url, web, desk) for url in addresses.urls))


def _kept(url: str, web: Web, desk: Desk) -> FetchedFile:
    name = PurePosixPath(unquote(urlsplit(url).path)).name or "download"
    with opened(url, web) as stream:
        return desk.keep(name, stream)


def _authorisation(secret: SecretRef | None) -> dict[str, str]:
    if secret is None:
        return {}
    token = secret_value(secret.name, secret.key or "BEARER_TOKEN")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if secret.key:
        raise AccessError(
            f'Secret "{secret.name}": key "{secret.key}" is missing or empty; add it',
            reason="AccessDenied",
        )
    user = required_secret_value(secret.name, "USERNAME")
    password = required_secret_value(secret.name, "PASSWORD")
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}
