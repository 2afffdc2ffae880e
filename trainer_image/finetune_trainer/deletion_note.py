"""Notes beside an object's results whether they may be removed once the object is deleted.

One file per revision, the newest counts: nothing in storage is ever rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from pydantic import ValidationError

from finetune_api.names import storage_prefix
from finetune_api.prune_messages import DeletionNote
from finetune_api.run_config import RunConfig
from finetune_api.storage import DeletionPolicy
from finetune_trainer.store import Store, open_store

FOLDER = "deletion"
_NAME = re.compile(rf"{FOLDER}/revision-(\d+)\.json")


def note_deletion_policy(config: RunConfig) -> None:
    """Write this revision's note, unless everything may be kept anyway or it was written."""
    identity, policy = config.identity, config.spec.storage.deletion_policy
    if policy is DeletionPolicy.RETAIN and identity.revision == 1:
        return
    store = open_store(config.location, config.prefix)
    known = store.list(f"{FOLDER}/")
    name = f"{FOLDER}/revision-{identity.revision}.json"
    if name in known or (policy is DeletionPolicy.RETAIN and not known):
        return
    note = DeletionNote(
        policy=policy,
        kind=identity.kind,
        namespace=identity.namespace,
        name=identity.name,
        uid=identity.uid,
    )
    with suppress(FileExistsError):  # another pod of this revision was quicker
        store.write(name, note.model_dump_json(by_alias=True).encode())


def note_that_marks(store: Store, prefix: str, names: Iterable[str]) -> DeletionNote | None:
    """Return the newest note of a folder if it says Delete, and speaks of this very folder.

    `names` are files below `prefix`, as the folder's own store names them.
    """
    revisions = {int(found[1]): name for name in names if (found := _NAME.fullmatch(name))}
    if not revisions:
        return None
    content = store.child(prefix).read(revisions[max(revisions)])
    try:
        note = DeletionNote.model_validate_json(content)
    except ValidationError:
        return None
    own = storage_prefix(note.kind, note.namespace, note.name, note.uid) == prefix
    return note if own and note.policy is DeletionPolicy.DELETE else None
