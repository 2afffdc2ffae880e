"""The programs of the cluster that no Debian package has, built from Go modules into the cache.

Each build lies in a folder named by the digest of all that determines it, so that a second run
builds nothing and a changed version builds only itself. `<cache>/bin` links to the newest ones.
"""

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.commands import output
from harness.locations import BIN
from harness.machine import BUILD_GIB, require_disk, require_go

SOURCES = Path(__file__).with_name("binaries")
KUBERNETES_VERSION = "v1.36.3"


@dataclass(frozen=True)
class Build:
    """One `go build` of a module folder here, or one `go install` of a published command."""

    name: str
    programs: tuple[str, ...]
    packages: tuple[str, ...]
    module: str | None = None
    linker: str = "-s -w"
    tags: str = ""

    @property
    def folder(self) -> Path:
        """Where the programs of exactly these sources and flags lie."""
        digest = hashlib.sha256(repr((self.packages, self.linker, self.tags)).encode())
        for source in sorted((SOURCES / self.module).iterdir()) if self.module else ():
            digest.update(source.read_bytes())
        return BIN / "builds" / f"{self.name}-{digest.hexdigest()[:12]}"

    @property
    def built(self) -> bool:
        """Whether every program is in the cache."""
        return all((self.folder / program).is_file() for program in self.programs)


def _kubernetes_version_flags() -> str:
    """Linker flags without which every component reports a placeholder version."""
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/client-go/pkg/version", "k8s.io/component-base/version")
    return " ".join(f"-X {p}.{key}={value}" for p in packages for key, value in values.items())


def _published(program: str, package: str) -> Build:
    built_as = package.partition("@")[0].rpartition("/")[2]
    return Build(name=program, programs=(built_as,), packages=(package,))


_COMPONENTS = tuple(
    f"kube{suffix}"
    for suffix in ("-apiserver", "-controller-manager", "-scheduler", "-proxy", "ctl", "let")
)
BUILDS = (
    Build(
        name="kubernetes",
        programs=_COMPONENTS,
        packages=tuple(f"k8s.io/kubernetes/cmd/{name}" for name in _COMPONENTS),
        module="kubernetes",
        linker=f"-s -w {_kubernetes_version_flags()}",
    ),
    Build(name="etcd", programs=("etcd",), packages=(".",), module="etcd"),
    Build(name="pause", programs=("pause",), packages=(".",), module="pause"),
    Build(
        name="prometheus",
        programs=("prometheus", "promtool"),
        packages=tuple(
            f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")
        ),
        module="prometheus",
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    _published("coredns", "github.com/coredns/coredns@v1.14.0"),
    _published("helm", "helm.sh/helm/v4/cmd/helm@v4.2.4"),
    _published("versitygw", "github.com/versity/versitygw/cmd/versitygw@v1.7.0"),
    _published("toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"),
    _published("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0"),
    _published("glua", "github.com/yuin/gopher-lua/cmd/glua@v1.1.1"),
)

CONTROLLERS = (
    Build(
        name="jobset", programs=("jobset",), packages=("sigs.k8s.io/jobset",), module="controllers"
    ),
    Build(
        name="kueue",
        programs=("kueue",),
        packages=("sigs.k8s.io/kueue/cmd/kueue",),
        module="controllers",
    ),
)
"""Not among BUILDS: no part of the cluster, and only the stories about them need them."""
VOLCANO = Build(
    name="volcano",
    programs=("scheduler", "controller-manager"),
    packages=tuple(
        f"volcano.sh/volcano/cmd/{name}" for name in ("scheduler", "controller-manager")
    ),
    module="volcano",
)


def program(name: str) -> Path:
    """Path of a built program, e.g. kubectl, helm or toxiproxy."""
    return BIN / name


def build_all() -> None:
    """Build what the cache lacks and point the links in `<cache>/bin` at this version's builds."""
    for build in BUILDS:
        ensure_built(build)


def ensure_built(build: Build) -> None:
    """Build it if the cache lacks it, and point its links at this build."""
    if not build.built:
        _compile(build)
    _link(build)


def _compile(build: Build) -> None:
    require_go()
    require_disk(BUILD_GIB)
    print(f"building {build.name} (once; kept in {build.folder})", file=sys.stderr)
    unfinished = build.folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    env = {"CGO_ENABLED": "0"}
    verb: tuple[str, ...]
    flags = ("-trimpath", "-tags", build.tags, "-ldflags", build.linker)
    if build.module:
        verb = ("go", "build", *flags, "-o", f"{unfinished}/")
        where = SOURCES / build.module
    else:
        verb = ("go", "install", *flags)
        where = unfinished
        env["GOBIN"] = str(unfinished)
    output(*verb, *build.packages, env=env, cwd=where, timeout=3600, show=True)
    shutil.rmtree(build.folder, ignore_errors=True)
    unfinished.rename(build.folder)


def _link(build: Build) -> None:
    for built in build.programs:
        link = BIN / (build.name if build.module is None else built)
        if not link.is_symlink() or link.resolve() != (build.folder / built).resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(build.folder / built)
