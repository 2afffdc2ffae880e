"""Brings the base model to a local folder, from a volume, S3 or the Hub; safetensors only."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from finetune_api.model_settings import InitialWeights
from finetune_api.storage import Location
from finetune_trainer.errors import AccessError, ConfigurationError, ExternalServiceError
from finetune_trainer.mounts import claim_folder, required_secret_value
from finetune_trainer.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from finetune_api.model_settings import Model
    from finetune_api.storage import S3, Hub

Answer = TypeVar("Answer")

WEIGHTS = ("*.safetensors",)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
SETTINGS = ("*.json", "*.txt", "*.jinja", "tokenizer.model", "*.tiktoken")
"""Everything else in a repository, code above all, is never fetched."""


def model_place(model: Model) -> str:
    """Return the name or address of a model for messages and status."""
    if model.volume_claim is not None:
        return f"pvc://{model.volume_claim.claim_name}/{model.volume_claim.path or ''}"
    if model.s3 is not None:
        return f"s3://{model.s3.bucket}/{model.s3.prefix or ''}"
    return model.name or ""


def resolved_commit(model: Model, hub: Hub) -> str | None:
    """Return the commit that the revision of a Hub model names now; None for other places."""
    if model.name is None or hub.offline:
        return None
    # huggingface_hub takes a second to import; jobs on volumes do not pay for it.
    from huggingface_hub import HfApi  # noqa: PLC0415

    api = HfApi(endpoint=hub.endpoint, token=_token(hub) or False)
    name, revision = model.name, model.revision
    commit = _asked(lambda: api.model_info(name, revision=revision).sha, name, revision)
    return str(commit) if commit else None


def local_model_folder(
    model: Model, hub: Hub, scratch: Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """Return a folder that holds the model in Hub layout.

    `revision` is the commit that preparation resolved; `weights=False` leaves the tensors where
    they are, and weights that are drawn need none. Raises AccessError (ModelNotFound,
    AccessDenied), ConfigurationError (UnsafeModelFormat) and ExternalServiceError.
    """
    drawn = model.initial_weights is InitialWeights.RANDOM
    weights = weights and not drawn
    if model.volume_claim is not None:
        folder = claim_folder(model.volume_claim.claim_name) / (model.volume_claim.path or "")
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        _check_files(names, model_place(model), drawn=drawn)
        return folder
    if model.s3 is not None:
        names = _names_in_s3(model.s3)
        _check_files(names, model_place(model), drawn=drawn)
        return _from_s3(model.s3, names, scratch / "model", weights=weights)
    if not hub.offline:
        _check_files(_names_on_hub(model, hub, revision), model.name or "", drawn=drawn)
    return _from_hub(model.name or "", hub, revision or model.revision, weights=weights)


def hub_tokenizer_folder(name: str, revision: str | None, hub: Hub) -> Path:
    """Return a folder with the tokenizer of a Hub repository; AccessError where there is none."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    return Path(
        _asked(
            lambda: snapshot_download(
                name,
                revision=revision,
                endpoint=hub.endpoint,
                token=_token(hub) or False,
                allow_patterns=list(SETTINGS),
                local_files_only=hub.offline,
            ),
            name,
            revision,
            field="spec.tokenizer",
        )
    )


def _names_in_s3(location: S3) -> list[str]:
    return [name for name in open_store(Location(s3=location)).list() if "/" not in name]


def _from_s3(location: S3, names: Iterable[str], folder: Path, *, weights: bool) -> Path:
    store = open_store(Location(s3=location))
    for name in names:
        target = folder / name
        if _wanted(name, weights=weights) and not target.exists():
            store.download(name, target)
    return folder


def _names_on_hub(model: Model, hub: Hub, revision: str | None) -> list[str]:
    from huggingface_hub import HfApi  # noqa: PLC0415

    api, name = HfApi(endpoint=hub.endpoint, token=_token(hub) or False), model.name or ""
    commit = revision or model.revision
    return _asked(lambda: api.list_repo_files(name, revision=commit), name, commit)


def _from_hub(name: str, hub: Hub, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    token = _token(hub) or False
    wanted = [*SETTINGS, *(WEIGHTS if weights else ())]
    return Path(
        _asked(
            lambda: snapshot_download(
                name,
                revision=revision,
                endpoint=hub.endpoint,
                token=token,
                allow_patterns=wanted,
                local_files_only=hub.offline,
            ),
            name,
            revision,
        )
    )


def _asked(
    question: Callable[[], Answer], name: str, revision: str | None, field: str = "spec.model"
) -> Answer:
    from huggingface_hub import errors  # noqa: PLC0415

    what = f"{field}: {name}" + (f" at {revision}" if revision else "")
    try:
        return question()
    except errors.GatedRepoError as error:
        raise AccessError(
            f"{what}: the hub refuses access; accept the model's terms and set hub.secretRef",
            reason="AccessDenied",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise AccessError(
            f"{what}: not found on the hub; correct the name or revision, or set hub.secretRef "
            "for a private one",
            reason="ModelNotFound",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise AccessError(
            f"{what}: not in the local cache and hub.offline is true; remove offline",
            reason="ModelNotFound",
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise AccessError(
                f"{what}: the hub answers {status}; correct hub.secretRef", reason="AccessDenied"
            ) from error
        raise ExternalServiceError(f"{what}: the hub answers {status}; try again later") from error
    except OSError as error:
        raise ExternalServiceError(
            f"{what}: the hub cannot be reached ({type(error).__name__}); check the network"
        ) from error


def _check_files(names: Iterable[str], place: str, *, drawn: bool) -> None:
    found = list(names)
    if "config.json" not in found:
        raise AccessError(
            f"spec.model: {place} holds no config.json; correct spec.model",
            reason="ModelNotFound",
        )
    if drawn or any(fnmatch(name, pattern) for name in found for pattern in WEIGHTS):
        return
    if any(fnmatch(name, pattern) for name in found for pattern in PICKLES):
        raise ConfigurationError(
            f"spec.model: {place} holds its weights only as pickle, which can run code when it is "
            "loaded; convert them to safetensors",
            reason="UnsafeModelFormat",
        )
    raise AccessError(
        f"spec.model: {place} holds no weights in safetensors; correct spec.model",
        reason="ModelNotFound",
    )


def _wanted(name: str, *, weights: bool) -> bool:
    patterns = (*SETTINGS, *(WEIGHTS if weights else ()))
    return any(fnmatch(name, pattern) for pattern in patterns)


def _token(hub: Hub) -> str | None:
    if hub.secret_ref is None:
        return None
    return required_secret_value(hub.secret_ref.name, hub.secret_ref.key or "HF_TOKEN")
