"""The immutable form of a dataset: one Parquet file per split, digests in a manifest, read back.

Nothing in it depends on when, where or by whom it was made: equal records give an equal digest.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.arrow_column import ArrowColumn
from finetune_trainer.errors import DataError
from finetune_trainer.record import CONVERSATION, TEXT, Record, short_hash
from finetune_trainer.split import SPLITS, Divided
from finetune_trainer.store import Store, download_verified, read_manifest, write_manifest

FORMAT = "dataset/v1"
BATCH_ROWS = 4096
_TURN = [("role", pa.string()), ("content", pa.string())]
_ORIGIN = [
    ("id", pa.string()),
    ("source", pa.string()),
    ("row", pa.int64()),
    ("group", pa.string()),
]
SCHEMAS: dict[str, Any] = {
    CONVERSATION: pa.schema(
        [*_ORIGIN, ("system", pa.string()), ("turns", pa.list_(pa.struct(_TURN)))]
    ),
    TEXT: pa.schema([*_ORIGIN, ("text", pa.string())]),
}
LINKED: Any = pa.schema([*SCHEMAS[CONVERSATION], ("parent", pa.string())])
"""Rows that name the row before them, by its id."""


@dataclass(frozen=True)
class Written:
    """A snapshot in storage."""

    uri: str
    digest: str
    bytes: int


TurnCells = dict[str, Any]
"""A turn as templates see it: `role`, `content`, and `"train": False` where it does not count."""


@dataclass(frozen=True)
class Rows:
    """The records of one split as columns, in the order of the snapshot."""

    ids: list[str]
    systems: Sequence[str | None]
    turns: Sequence[list[TurnCells]]
    texts: Sequence[str]
    """Texts lie in a memory map until they are read: as lists they fill the memory."""
    groups: list[str] = field(default_factory=list)
    """groups are what must stay together: a conversation tree, a given group, exact copies."""
    parents: list[str | None] = field(default_factory=list)
    """parents are ids of rows of the same split; empty where rows are not linked."""
    sources: list[str] = field(default_factory=list)
    """sources are names of the Dataset's sources."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that was read and verified."""

    digest: str
    record_type: str
    splits: dict[str, Rows]
    weights: dict[str, float] = field(default_factory=dict)
    """weights of sources in an epoch, by name; empty = every record once"""


def write_snapshot(
    store: Store,
    record_type: str,
    records: Sequence[Record],
    divided: Divided,
    weights: Mapping[str, float] | None = None,
) -> Written:
    """Write the splits that have records and then the manifest; `weights` are those of sources."""
    ids = record_ids(records)
    entries = []
    for split in SPLITS:
        members = divided.members(split)
        if members:
            table = _table(record_type, records, ids, divided, members)
            entries.append(store.write(f"{split}.parquet", _parquet(table)))
    counts = {split: len(divided.members(split)) for split in SPLITS}
    facts: dict[str, Any] = {"weights": dict(weights)} if weights else {}
    digest = write_manifest(
        store, FORMAT, entries, record_type=record_type, records=counts, **facts
    )
    return Written(store.uri, digest, sum(entry.bytes for entry in entries))


def record_ids(records: Sequence[Record]) -> list[str]:
    """Return ids: given ones, else by source and content; copies are numbered."""
    copies: Counter[str] = Counter()
    ids = []
    for record, known in zip(records, given_ids(records), strict=True):
        plain = known or short_hash(record.place.source, record.content())
        ids.append(f"{plain}-{copies[plain]}" if copies[plain] else plain)
        copies[plain] += 1
    return ids


def given_ids(records: Sequence[Record], part: str = "id") -> list[str | None]:
    """Return the ids, or parents, that records have; the source tells equal ids of several."""
    sources: dict[str | None, set[str]] = defaultdict(set)
    for record in records:
        sources[record.id].add(record.place.source)
    names = [(record.place.source, getattr(record, part)) for record in records]
    return [f"{source}:{name}" if len(sources[name]) > 1 else name for source, name in names]


def read_snapshot(store: Store, folder: Path, digest: str) -> Snapshot:
    """Copy a snapshot to `folder` and read it; every digest is checked first.

    Raises DataError (DigestMismatch) when the snapshot is missing, damaged or another one.
    """
    manifest = read_manifest(store)
    if manifest.format != FORMAT or manifest.digest != digest:
        raise DataError(
            f"{store.uri}: holds {manifest.format} {manifest.digest[:19]}…, expected {FORMAT} "
            f"{digest[:19]}…; restore the snapshot, or run the Dataset again",
            reason="DigestMismatch",
        )
    download_verified(store, manifest, folder)
    splits = {
        split: _rows(folder / f"{split}.parquet")
        for split in SPLITS
        if (folder / f"{split}.parquet").exists()
    }
    weights = manifest.facts.get("weights") or {}
    return Snapshot(digest, str(manifest.facts.get("record_type")), splits, weights)


def _table(
    record_type: str,
    records: Sequence[Record],
    ids: Sequence[str],
    divided: Divided,
    members: Sequence[int],
) -> Any:
    chosen = [records[place] for place in members]
    columns: dict[str, list[Any]] = {
        "id": [ids[place] for place in members],
        "source": [record.place.source for record in chosen],
        "row": [record.place.number for record in chosen],
        "group": [divided.groups[place] for place in members],
    }
    if record_type == TEXT:
        columns["text"] = [record.text for record in chosen]
        return pa.Table.from_pydict(columns, schema=SCHEMAS[record_type])
    columns["system"] = [record.system for record in chosen]
    columns["turns"] = [[turn._asdict() for turn in record.turns] for record in chosen]
    linked = any(record.tree is not None for record in chosen)
    if linked:
        parents = given_ids(records, "parent")
        columns["parent"] = [parents[place] for place in members]
    schema = LINKED if linked else SCHEMAS[CONVERSATION]
    if any(not turn.train for record in chosen for turn in record.turns):
        at = schema.get_field_index("turns")
        turns = pa.list_(pa.struct([*_TURN, ("train", pa.bool_())]))
        schema = schema.set(at, pa.field("turns", turns))
    return pa.Table.from_pydict(columns, schema=schema)


def _parquet(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _rows(path: Path) -> Rows:
    table = _mapped(path)
    names = table.column_names
    none: list[Any] = [None] * table.num_rows
    return Rows(
        ids=table["id"].to_pylist(),
        systems=ArrowColumn(table["system"]) if "system" in names else none,
        turns=_turns(table["turns"]) if "turns" in names else none,
        texts=ArrowColumn(table["text"]) if "text" in names else none,
        groups=table["group"].to_pylist(),
        parents=table["parent"].to_pylist() if "parent" in names else [],
        sources=table["source"].to_pylist(),
    )


def _mapped(path: Path) -> Any:
    """Return a table that lies in a file beside its Parquet form and takes no memory itself."""
    plain = path.with_suffix(".arrow")
    with (
        pq.ParquetFile(path) as parquet,
        pa.OSFile(str(plain), "wb") as sink,
        pa.ipc.new_file(sink, parquet.schema_arrow) as file,
    ):
        for batch in parquet.iter_batches(BATCH_ROWS):
            file.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(plain))).read_all()


def _turns(column: Any) -> ArrowColumn[list[TurnCells]]:
    flagged = column.type.value_type.get_field_index("train") >= 0
    return ArrowColumn(column, _flagged if flagged else list)


def _flagged(turns: list[list[TurnCells]]) -> list[list[TurnCells]]:
    """Keep `train` only where it is False."""
    for turn in (turn for record in turns for turn in record):
        if turn["train"] is not False:
            del turn["train"]
    return turns
