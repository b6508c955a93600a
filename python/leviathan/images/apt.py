"""Packages of any suite of the distribution, fetched by apt as an ordinary user; the system stays untouched.

apt gets sources, lists, state and cache of its own below the user's cache folder. The mirror is the one that the
system itself uses, the signatures are checked with the distribution's keyring, and proxies and the like come from the
system's configuration.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from leviathan.images.base import ImageError
from leviathan.images.kernel import Progress, cache_dir

__all__ = ["Apt", "Package", "host_architecture", "mirror", "system_suite", "unpack"]

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/etc/apt/keyrings/debian-archive-keyring.gpg"),
)
LIST_SECONDS = 24 * 3600.0
"""Age at which a suite's package lists are fetched anew."""
APT_LIMIT = 1800.0
NETWORK_HINT = "check that the network and the system's own apt sources work: sudo apt-get update"
SUITE = re.compile(r"[a-z][a-z0-9-]{1,40}")
_MERGED = ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True, slots=True)
class Package:
    """One package as a suite offers it."""

    name: str
    version: str
    file: str
    size: int
    """Bytes to download."""


def host_architecture() -> str:
    """The distribution's name of this machine's architecture (``amd64``)."""
    return _output(["dpkg", "--print-architecture"], "the images need Debian's dpkg and apt").strip()


def system_suite() -> str:
    """The code name of the running system's release (``bookworm``)."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    name = fields.get("VERSION_CODENAME", "").strip('"')
    if not name:
        raise ImageError("/etc/os-release names no release", "name a suite with --suite, for example trixie")
    return name


class Apt:
    """One suite and one architecture."""

    def __init__(self, suite: str, architecture: str, progress: Progress = lambda step: None) -> None:
        if not SUITE.fullmatch(suite):
            raise ImageError(f"{suite!r} is no name of a suite", "for example: bookworm-backports, trixie, sid")
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise ImageError(f"{tool} is not here; packages of another suite are fetched by apt")
        self.suite = suite
        self.architecture = architecture
        self.home = cache_dir() / "suites" / suite / architecture
        self._root = self.home / "apt"
        self._progress = progress

    def refresh(self) -> None:
        """Fetches the package lists if they are missing or old."""
        stamp = self._root / "stamp"
        with self._locked():
            if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < LIST_SECONDS:
                return
            for folder in ("lists/partial", "none/partial", "archives", "etc"):
                (self._root / folder).mkdir(parents=True, exist_ok=True)
            (self._root / "status").touch()
            (self._root / "etc/suite.sources").write_text(self._sources())
            self._progress(f"fetching the package lists of {self.suite} ({self.architecture})")
            self._apt("apt-get", "update", "-q")
            stamp.touch()

    def find(self, name: str) -> str | None:
        """The version of a package that the suite offers."""
        self.refresh()
        text = self._apt("apt-cache", "policy", name)
        match = re.search(r"^ +Candidate: (\S+)", text, re.MULTILINE)
        return None if match is None or match[1] == "(none)" else match[1]

    def depends(self, name: str) -> list[str]:
        """Names of the packages that one depends on directly."""
        self.refresh()
        return re.findall(r"^  (?:Pre)?Depends: (\S+)", self._apt("apt-cache", "depends", name), re.MULTILINE)

    def closure(self, names: Sequence[str]) -> list[Package]:
        """These packages and all that they need, as an installation on an empty system would have them."""
        self.refresh()
        return self._listed("install", "--no-install-recommends", *names)

    def alone(self, names: Sequence[str]) -> list[Package]:
        """These packages without what they need."""
        self.refresh()
        return self._listed("download", *names)

    def fetch(self, packages: Sequence[Package]) -> list[Path]:
        """Downloads packages (signatures and checksums are apt's affair); returns the files, in the same order."""
        folder = self._root / "archives"
        missing = [package for package in packages if not (folder / package.file).exists()]
        if missing:
            total = sum(package.size for package in missing)
            self._progress(f"downloading {len(missing)} packages of {self.suite} ({total / 1e6:.0f} MB)")
            with self._locked():
                self._apt("apt-get", "download", "-q", *(f"{p.name}={p.version}" for p in missing), folder=folder)
        return [folder / package.file for package in packages]

    def _listed(self, *words: str) -> list[Package]:
        text = self._apt("apt-get", "-y", "--print-uris", *words)
        found = []
        for file, size in re.findall(r"^'[^']*' (\S+\.deb) (\d+)", text, re.MULTILINE):
            name, version, _ = file.removesuffix(".deb").split("_")
            found.append(Package(name, unquote(version), file, int(size)))
        if not found:
            raise ImageError(f"apt offers nothing for {' '.join(words)} in {self.suite} ({self.architecture})")
        return found

    def _sources(self) -> str:
        keyring = next((path for path in KEYRINGS if path.exists()), None)
        lines = ["Types: deb", f"URIs: {mirror()}", f"Suites: {' '.join(_with_base(self.suite))}", "Components: main"]
        lines += [f"Architectures: {self.architecture}"]
        if keyring is not None:
            lines.append(f"Signed-By: {keyring}")
        return "\n".join(lines) + "\n"

    def _apt(self, tool: str, *words: str, folder: Path | None = None) -> str:
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Default-Release": self.suite,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(self._root / "etc"),
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": str(self._root),
            "Dir::State::lists": str(self._root / "lists"),
            "Dir::State::status": str(self._root / "status"),
            "Dir::Cache": str(self._root),
            # Packages downloaded before would be missing from what apt says that it needs.
            "Dir::Cache::archives": str(self._root / "none"),
        }
        command = [tool, *(f"-o{name}={value}" for name, value in options.items()), *words]
        return _output(command, NETWORK_HINT, folder, shown=f"{tool} {' '.join(words[:4])} ({self.suite})")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two of us at once wait for each other, instead of failing over apt's own lock."""
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def unpack(packages: Sequence[Path], tree: Path, step: Callable[[int], None] = lambda count: None) -> None:
    """Unpacks packages into one tree, without their scripts; ``/lib`` and the like are links into ``/usr``."""
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    for count, package in enumerate(packages, start=1):
        # dpkg-deb alone would replace those links by the folders of packages that still say /lib.
        extract = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions", "-C", str(tree)]
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as reader:
            done = subprocess.run(extract, stdin=reader.stdout, capture_output=True, text=True, check=False)
        if done.returncode or reader.returncode:
            raise ImageError(f"cannot unpack {package.name}: {done.stderr.strip()[-300:]}", "is the disk full?")
        step(count)


def mirror() -> str:
    """Address of the distribution's archive, from the system's own sources."""
    text = _output(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"], NETWORK_HINT
    )
    rows = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    for origin, label, address in rows:
        if origin == label == "Debian":
            return address
    raise ImageError(
        "the system's apt sources name no Debian archive whose lists were fetched",
        "run: sudo apt-get update (other distributions' packages are not supported yet)",
    )


def _with_base(suite: str) -> list[str]:
    """A suite and what it stands on: backports need the release that they are for."""
    base = re.sub(r"-(backports|updates|proposed-updates|backports-sloppy)$", "", suite)
    return [suite] if base == suite else [suite, base]


def _output(command: Sequence[str], hint: str, folder: Path | None = None, shown: str | None = None) -> str:
    name = shown or " ".join(command)
    try:
        environment = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=APT_LIMIT, check=False, env=environment
        )
    except OSError as error:
        raise ImageError(f"cannot run {name}: {error.strerror}", hint) from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{name} did not end within {APT_LIMIT:.0f} s", hint) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        raise ImageError(f"{name} failed: {' / '.join(lines[-3:])}", hint)
    return done.stdout
