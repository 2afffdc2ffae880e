"""Verb `prune`: finds and removes what deleted objects and killed writers left in storage.

It knows storage and no cluster: whoever asks has to know which objects live. Only folders whose
own note says Delete are ever removed, and of others nothing but what no reader can use.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator

from pydantic import ValidationError

from finetune_api.names import EXPERIMENT, PLURALS
from finetune_api.prune_messages import Leftover, MarkedFolder, PruneAnswer, PruneRequest
from finetune_trainer.deletion_note import FOLDER, note_that_marks
from finetune_trainer.encoding_places import target
from finetune_trainer.errors import ConfigurationError, TrainerError
from finetune_trainer.storage_ages import abort, ages, open_uploads
from finetune_trainer.store import MANIFEST, Store, open_store

_UID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_OBJECT = re.compile(rf"((?:{'|'.join(PLURALS.values())})/[^/]+/[^/]+-{_UID})/(.+)")
_WHOLE = re.compile(
    r"(checkpoints/attempt-\d+\.\d+/step-\d+|(prepared|encoded)-\d+-\d+(-[a-z]+)?(\.\d+)?)/"
)
"""Folders that exist by their manifest alone."""
_POINTER = re.compile(rf"({PLURALS[EXPERIMENT]}/[^/]+)/(encodings/.+)")


def found(request: PruneRequest) -> PruneAnswer:
    """Return the folders that are marked, and leftovers that are old enough."""
    store, stale = open_store(request.location), request.stale_seconds
    folders, leftovers = [], []
    for plural in PLURALS.values():
        written: defaultdict[str, dict[str, float]] = defaultdict(dict)
        aged = ages(request.location, plural)
        for name, seconds in aged.items():
            if (match := _OBJECT.fullmatch(name)) is not None:
                written[match[1]][match[2]] = seconds
        for prefix, names in sorted(written.items()):
            if (note := note_that_marks(store, prefix, names)) is not None:
                uri = store.child(prefix).uri
                folders.append(MarkedFolder(prefix=prefix, uri=uri, uid=note.uid, files=len(names)))
            leftovers += [Leftover(name=f"{prefix}/{step}") for step in _half_written(names, stale)]
        leftovers += [Leftover(name=name) for name in _pointers_to_nothing(aged, stale)]
        leftovers += [
            Leftover(name=upload.name, upload=upload.identity)
            for upload in open_uploads(request.location, plural)
            if upload.seconds > stale and _OBJECT.fullmatch(upload.name)
        ]
    return PruneAnswer(folders=folders, leftovers=leftovers)


def removed(request: PruneRequest) -> PruneAnswer:
    """Remove what the request names, as far as it still is what it was found to be."""
    store, now = open_store(request.location), found(request)
    folders = [one for one in now.folders if one.prefix in request.folders]
    leftovers = [one for one in now.leftovers if one in request.leftovers]
    for folder in folders:
        _clear(store.child(folder.prefix))
    uploads = {
        (upload.name, upload.identity): upload
        for plural in PLURALS.values()
        for upload in open_uploads(request.location, plural)
    }
    for one in leftovers:
        if one.name.endswith("/"):
            _clear(store.child(one.name.rstrip("/")))
        elif not one.upload:
            store.delete(one.name)
        elif (upload := uploads.get((one.name, one.upload))) is not None:
            abort(request.location, upload)
    return PruneAnswer(folders=folders, leftovers=leftovers)


def prune() -> int:
    """Carry out the request on stdin, answer on stdout; return the exit code."""
    try:
        request = _request(sys.stdin.read())
        answer = removed(request) if request.folders or request.leftovers else found(request)
    except TrainerError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stdout.write(answer.model_dump_json(by_alias=True) + "\n")
    return 0


def _half_written(names: dict[str, float], stale: float) -> Iterator[str]:
    """Yield folders that never got a manifest and to which nothing was added for long."""
    folders: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, seconds in names.items():
        if (match := _WHOLE.match(name)) is not None:
            folders[match[0]][name[match.end() :]] = seconds
    for folder, files in sorted(folders.items()):
        if MANIFEST not in files and min(files.values()) > stale:
            yield folder


def _pointers_to_nothing(names: dict[str, float], stale: float) -> Iterator[str]:
    """Yield pointers to encodings that went with their experiment."""
    for name, seconds in sorted(names.items()):
        if (match := _POINTER.fullmatch(name)) is None or seconds <= stale:
            continue
        folder = target(match[2])
        if folder is not None and f"{match[1]}/{folder}/{MANIFEST}" not in names:
            yield name


def _clear(folder: Store) -> None:
    """Delete manifests first, so that nothing exists in part, and the note last of all."""
    names = folder.list()
    for name in sorted(names, key=lambda name: (name.startswith(FOLDER), MANIFEST not in name)):
        folder.delete(name)


def _request(text: str) -> PruneRequest:
    try:
        return PruneRequest.model_validate_json(text)
    except ValidationError as error:
        raise ConfigurationError(f"request: {error.error_count()} fields do not fit") from error
