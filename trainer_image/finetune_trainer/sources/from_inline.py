"""Rows that stand in the manifest itself."""

from __future__ import annotations

import io

from finetune_api.dataset_sources import Source
from finetune_trainer.sources.fetched_files import Desk, Fetched


def fetch_inline(source: Source, desk: Desk) -> Fetched:
    """Return the text of the manifest as a file."""
    assert source.inline is not None  # noqa: S101 - the table of sources chose by this member
    content = source.inline.data.encode()
    return Fetched(files=(desk.keep(f"inline.{source.format.lower()}", io.BytesIO(content)),))
