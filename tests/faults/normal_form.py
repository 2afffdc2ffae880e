"""The end of a story without what may differ between two runs of it.

Dropped are versions, uids, times, addresses, fences, messages and what depends on whether
somebody looked in time: progress and its figures, the last words of pods that were gone by then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from finetune_api.names import FENCE_ANNOTATION, PLURALS

Json = dict[str, Any]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_METADATA = ("name", "labels", "annotations", "ownerReferences", "finalizers")
_CONDITION = ("type", "status", "reason")
_LATE = ("fence", "activeSeconds", "progress", "pods", "efficiency")
_RECORD = ("number", "revision", "stage", "outcome", "class")
_POD_SUFFIX = re.compile(r"-[a-z0-9]{5}$")


def normal_form(found: Iterable[Json], namespace: str) -> dict[str, Json]:
    """Return `Kind name` → what is compared of each object."""
    objects = list(found)
    texts = {o["metadata"]["uid"]: f"<uid of {o['kind']}>" for o in objects}
    for known in objects:
        for owner in known["metadata"].get("ownerReferences") or ():
            texts.setdefault(owner["uid"], f"<uid of {owner['kind']}>")
    normal = {}
    for known in objects:
        kept = _kept(known)
        text = json.dumps(kept)
        for changing, constant in texts.items():
            text = text.replace(changing, constant)
        text = _TIME.sub("<time>", text).replace(namespace, "<namespace>")
        normal[f"{known['kind']} {kept['metadata']['name']}"] = json.loads(text)
    return dict(sorted(normal.items()))


def differences(wanted: Any, got: Any, path: str = "") -> list[str]:
    """Return where two normal forms differ."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        names = sorted(wanted.keys() | got.keys())
        return [d for n in names for d in differences(wanted.get(n), got.get(n), f"{path}/{n}")]
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        pairs = enumerate(zip(wanted, got, strict=True))
        return [d for n, (w, g) in pairs for d in differences(w, g, f"{path}/{n}")]
    if wanted == got:
        return []
    return [f"{path}: {json.dumps(wanted)[:160]} became {json.dumps(got)[:160]}"]


def _kept(found: Json) -> Json:
    metadata = {name: found["metadata"][name] for name in _METADATA if name in found["metadata"]}
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {k: v for k, v in annotations.items() if k != FENCE_ANNOTATION}
    labels = metadata.get("labels") or {}
    metadata["labels"] = {k: v for k, v in labels.items() if "uid" not in k}
    kept = {"metadata": metadata, "status": _status(found)}
    if found["kind"] == "Pod":
        metadata["name"] = _POD_SUFFIX.sub("", metadata["name"])
        metadata.pop("finalizers", None)
        return kept
    spec = {k: v for k, v in (found.get("spec") or {}).items() if not k.startswith("clusterIP")}
    data = {name: _configuration(text) for name, text in (found.get("data") or {}).items()}
    return kept | {"spec": spec, "data": data}


def _configuration(text: str) -> Any:
    """Return the configuration of a run as JSON.

    Without its writer, what its uid seeds, and checkpoints that only last words told of.
    """
    try:
        told = json.loads(text)
    except ValueError:
        return text
    if isinstance(told, dict) and isinstance(told.get("identity"), dict):
        told["identity"].pop("fence", None)
        for name in ("seed", "knownCheckpoints"):
            told.pop(name, None)
    return told


def _status(found: Json) -> Json:
    status = found.get("status") or {}
    conditions = [
        {name: c.get(name) for name in _CONDITION} for c in status.get("conditions") or ()
    ]
    if found["kind"] == "Pod":
        return {"phase": status.get("phase")}
    if found["kind"] not in PLURALS:
        return {"conditions": conditions}
    kept = {name: value for name, value in status.items() if name not in _LATE}
    history = [{n: r.get(n) for n in _RECORD} for r in status.get("history") or ()]
    return kept | {"conditions": conditions, "history": history}
