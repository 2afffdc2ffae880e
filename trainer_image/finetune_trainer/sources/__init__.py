"""Where rows come from: one table line per source; a new source is one file and one line."""

from __future__ import annotations

from collections.abc import Callable

from finetune_api.dataset_sources import Source
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.sources.fetched_files import Desk, Fetched
from finetune_trainer.sources.from_http import fetch_http
from finetune_trainer.sources.from_hugging_face import fetch_hugging_face
from finetune_trainer.sources.from_inline import fetch_inline
from finetune_trainer.sources.from_volume import fetch_volume


def _fetch_s3(source: Source, desk: Desk) -> Fetched:
    # boto3 takes a second to import; jobs without a bucket do not pay for it.
    from finetune_trainer.sources.from_s3 import fetch_s3  # noqa: PLC0415

    return fetch_s3(source, desk)


SOURCES: dict[str, Callable[[Source, Desk], Fetched]] = {
    "inline": fetch_inline,
    "volume_claim": fetch_volume,
    "s3": _fetch_s3,
    "http": fetch_http,
    "hugging_face": fetch_hugging_face,
}
"""The member of a `Source` that is set, and what fetches it."""


def fetch_source(source: Source, desk: Desk) -> Fetched:
    """Return local copies of a source's files; raise the error that explains why not."""
    for member, fetch in SOURCES.items():
        if getattr(source, member) is not None:
            return fetch(source, desk)
    raise ConfigurationError(
        f"spec.sources: empty; set one of {', '.join(SOURCES)}", reason="InvalidSpec"
    )
