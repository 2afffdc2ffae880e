"""Data files of a dataset repository on the Hub; its code is never fetched.

The commit is resolved first and every file is read at that commit.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from urllib.parse import quote

from finetune_api.dataset_sources import HuggingFaceDataset, Source
from finetune_trainer.errors import AccessError, ExternalServiceError
from finetune_trainer.fetch import Web, opened
from finetune_trainer.mounts import required_secret_value
from finetune_trainer.sources.fetched_files import Desk, Fetched, FetchedFile, chosen, nothing_found
from finetune_trainer.split import SPELLINGS

PUBLIC_HUB = "https://huggingface.co"
MAX_ANSWER_BYTES = 16 << 20


def fetch_hugging_face(source: Source, desk: Desk) -> Fetched:
    """Return the data files of the repository, subset and split that the source names."""
    wanted = source.hugging_face
    assert wanted is not None  # noqa: S101 - the table of sources chose by this member
    if desk.hub.offline:
        raise AccessError(
            f"sources: {wanted.repository} lies on a hub, but hub.offline is true; remove offline, "
            "or use a volume or bucket",
            reason="AccessDenied",
        )
    hub = (desk.hub.endpoint or PUBLIC_HUB).rstrip("/")
    web = Web(allowed=desk.allowed, headers=_authorisation(desk), other_hosts=True)
    commit, names = _listing(hub, wanted, web)
    picked = [name for name in chosen(names, source) if _belongs(name, wanted)]
    if not picked:
        raise nothing_found(_described(wanted), wanted.split or "", names)
    address = f"{hub}/datasets/{wanted.repository}/resolve/{commit}"
    files = tuple(_kept(f"{address}/{quote(name)}", name, web, desk, wanted) for name in picked)
    return Fetched(files=files, revision=commit)


def split_of(name: str) -> str | None:
    """Return the split that a file name or one of its folders says, or None."""
    for part in reversed(PurePosixPath(name).parts):
        for word in re.split(r"[-_.]", part.lower()):
            if word in SPELLINGS:
                return SPELLINGS[word]
    return None


def _listing(hub: str, wanted: HuggingFaceDataset, web: Web) -> tuple[str, list[str]]:
    revision = quote(wanted.revision or "main", safe="")
    url = f"{hub}/api/datasets/{wanted.repository}/revision/{revision}"
    with opened(url, web) as stream:
        content = stream.read(MAX_ANSWER_BYTES)
    try:
        answer = json.loads(content)
        return str(answer["sha"]), [str(file["rfilename"]) for file in answer["siblings"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ExternalServiceError(
            f"{hub}: its answer about {wanted.repository} is not what a hub answers; check "
            "hub.endpoint"
        ) from error


def _belongs(name: str, wanted: HuggingFaceDataset) -> bool:
    if wanted.subset and wanted.subset not in PurePosixPath(name).parts[:-1]:
        return False
    return wanted.split is None or _named(name, wanted.split)


def _named(name: str, split: str) -> bool:
    words = re.split(r"[-_./]", name.lower())
    return split.lower() in words or split_of(name) == SPELLINGS.get(split.lower(), split)


def _kept(url: str, name: str, web: Web, desk: Desk, wanted: HuggingFaceDataset) -> FetchedFile:
    # A split that was asked for by name is ordinary data, to be divided like any other.
    split = None if wanted.split else split_of(name)
    with opened(url, web) as stream:
        return desk.keep(name, stream, split if split != "train" else None)


def _described(wanted: HuggingFaceDataset) -> str:
    parts = [f'repository "{wanted.repository}"']
    parts += [f'subset "{wanted.subset}"'] if wanted.subset else []
    parts += [f'split "{wanted.split}"'] if wanted.split else []
    return ", ".join(parts)


def _authorisation(desk: Desk) -> dict[str, str]:
    secret = desk.hub.secret_ref
    if secret is None:
        return {}
    return {
        "Authorization": f"Bearer {required_secret_value(secret.name, secret.key or 'HF_TOKEN')}"
    }
