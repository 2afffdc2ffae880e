"""Pieces of a checkpoint that a rank takes, read and verified in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from finetune_trainer.pieces import Piece
from finetune_trainer.store import MANIFEST, DamagedError, Store, read_manifest, verified_stream
from finetune_trainer.tensor_file import read_pieces


def verified_pieces(
    folder: Store, digest: str, prefix: str, targets: Mapping[str, Piece]
) -> Iterator[Piece]:
    """Yield what the targets need of the files whose names begin with `prefix`.

    A file that has any of it is read to its end; the others' rows need not be read at all. Raises
    DamagedError where the manifest is not that of `digest` or a file not that of the manifest.
    """
    manifest = read_manifest(folder)
    if manifest.digest != digest:
        raise DamagedError(f"{folder.uri}: {MANIFEST} is not the one that rank 0 read")
    for entry in manifest.files:
        if not entry.name.startswith(prefix):
            continue
        taken = False
        with verified_stream(folder, entry) as stream:
            for piece in read_pieces(stream, targets):
                taken = True
                yield piece
            if taken:
                stream.finish()
