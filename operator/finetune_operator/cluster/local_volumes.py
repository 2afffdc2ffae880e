"""Turns a pod's volumes into folders, and its paths and addresses into those of this machine.

A pod sees `/mnt/claims/x`; the process of a local pod sees a folder below the pod's own root, to
which mounts, environment values and arguments are rewritten alike.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_api import names
from finetune_operator.observed import Manifest

SECRET_VARIABLE = "FINETUNE_SECRET_"  # noqa: S105 - the prefix of names, no secret itself
_PATH_VARIABLES = (names.CLAIMS_DIR_ENV, names.SECRETS_DIR_ENV, names.SCRATCH_DIR_ENV)


class NotMountedError(Exception):
    """A volume of a pod cannot be provided; `reason` and text are what a kubelet would say."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class PodRoot:
    """The folder that stands for `/` in a pod, as far as mounts go."""

    folder: Path
    mount_paths: tuple[str, ...]

    @property
    def termination_log(self) -> Path:
        """Return where the pod leaves its last word."""
        return self.folder / names.TERMINATION_LOG.lstrip("/")

    def local(self, path: str) -> Path:
        """Return the folder or file that stands for an absolute path of the pod."""
        return self.folder / path.lstrip("/")

    def rewritten(self, value: str) -> str:
        """Return a value with a path in, above or at a mount replaced by the local one."""
        if not value.startswith("/") or value == "/":
            return value
        path = PurePosixPath(value)
        for mount in map(PurePosixPath, self.mount_paths):
            if path.is_relative_to(mount) or mount.is_relative_to(path):
                return str(self.local(value))
        return value


class LocalVolumes:
    """Claims and Secrets of a work directory, ConfigMaps of its objects."""

    def __init__(
        self,
        work_dir: Path,
        config_map: Callable[[str, str], Manifest | None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._work_dir, self._config_map = work_dir, config_map
        self._environment = environment

    def claim(self, name: str) -> Path:
        """Return the folder of a claim; it is made when there is none."""
        folder = self._work_dir / "claims" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def mount(self, pod: Manifest) -> PodRoot:
        """Provide all volumes of a pod anew; raises NotMountedError."""
        self.unmount(pod["metadata"]["name"])
        container = pod["spec"]["containers"][0]
        mounts = [m for m in container.get("volumeMounts", []) if not _is_device(m["mountPath"])]
        paths = [m["mountPath"] for m in mounts]
        root = PodRoot(
            self._work_dir / "pods" / pod["metadata"]["name"],
            (*paths, names.TERMINATION_LOG, names.CLAIMS_DIR, names.SECRETS_DIR),
        )
        root.termination_log.parent.mkdir(parents=True, exist_ok=True)
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for mount in mounts:
            self._provide(volumes[mount["name"]], root.local(mount["mountPath"]), pod)
        _make_folders(container, root)
        return root

    def unmount(self, pod_name: str) -> None:
        """Remove what the pod had to itself; claims stay."""
        shutil.rmtree(self._work_dir / "pods" / pod_name, ignore_errors=True)

    def _provide(self, volume: Manifest, folder: Path, pod: Manifest) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if claim := volume.get("persistentVolumeClaim"):
            if not folder.is_symlink():
                folder.symlink_to(self.claim(claim["claimName"]).resolve())
            return
        folder.mkdir(exist_ok=True)
        if config := volume.get("configMap"):
            found = self._config_map(pod["metadata"]["namespace"], config["name"])
            if found is None:
                raise NotMountedError("FailedMount", f'configmap "{config["name"]}" not found')
            _write_files(folder, _items(config, found.get("data", {})))
        elif secret := volume.get("secret"):
            _write_files(folder, self._secret(secret["secretName"]))

    def _secret(self, name: str) -> dict[str, str]:
        """Return a Secret's keys: files of the work directory, over them the environment."""
        folder = self._work_dir / "secrets" / name
        files = [path for path in folder.glob("*") if path.is_file()]
        values = {path.name: path.read_text(encoding="utf-8") for path in files}
        prefix = SECRET_VARIABLE + re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_"
        for variable, value in self._environment.items():
            if variable.startswith(prefix):
                values[variable.removeprefix(prefix)] = value
        if not values:
            raise NotMountedError(
                "FailedMount",
                f'secret "{name}" not found; write its keys as files into {folder}, '
                f"or set {prefix}<KEY>",
            )
        return values


def _make_folders(container: Manifest, root: PodRoot) -> None:
    """Make the folders that the environment promises, HOME among them."""
    for variable in container.get("env", []):
        value = variable.get("value", "")
        inside = root.rewritten(value)
        if inside != value and (variable["name"] in _PATH_VARIABLES or "." not in Path(value).name):
            path = Path(inside)
            if path != root.termination_log:
                path.mkdir(parents=True, exist_ok=True)


def _items(volume: Manifest, data: Mapping[str, str]) -> Mapping[str, str]:
    """Return the files of a volume: all keys, or those it names by their paths."""
    items = volume.get("items")
    if items is None:
        return data
    for item in items:
        if item["key"] not in data:
            problem = f"references non-existent config key: {item['key']}"
            raise NotMountedError("FailedMount", f'configmap "{volume["name"]}" {problem}')
    return {item["path"]: data[item["key"]] for item in items}


def _write_files(folder: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(value, encoding="utf-8")


def _is_device(path: str) -> bool:
    return PurePosixPath(path).is_relative_to("/dev")
