"""Where a job pod finds its claims, Secrets and scratch disk."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_api import names
from finetune_trainer.errors import AccessError


def claim_folder(claim_name: str) -> Path:
    """Return the folder at which the PersistentVolumeClaim is mounted."""
    return Path(os.environ.get(names.CLAIMS_DIR_ENV, names.CLAIMS_DIR)) / claim_name


def scratch_folder() -> Path:
    """Return the folder for files that need not outlive the pod."""
    return Path(os.environ.get(names.SCRATCH_DIR_ENV, names.SCRATCH_DIR))


def secret_value(secret_name: str, key: str) -> str | None:
    """Return the text of one key of a mounted Secret, or None when it has no such key."""
    folder = Path(os.environ.get(names.SECRETS_DIR_ENV, names.SECRETS_DIR)) / secret_name
    try:
        return (folder / key).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(
            f'Secret "{secret_name}": key "{key}" cannot be read as text; correct the Secret',
            reason="AccessDenied",
        ) from error


def required_secret_value(secret_name: str, key: str) -> str:
    """Return the text of one key of a mounted Secret; raise AccessError when it is missing."""
    value = secret_value(secret_name, key)
    if not value:
        raise AccessError(
            f'Secret "{secret_name}": key "{key}" is missing or empty; add it to the Secret',
            reason="AccessDenied",
        )
    return value
