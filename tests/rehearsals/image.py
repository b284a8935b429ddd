"""Rehearse the image: `make rehearse-image`.

The Dockerfile is built for real, without a container engine: buildah runs its steps in a chroot, on a Debian bookworm
with Python that debootstrap makes in place of the pinned base. Then the image's command runs as the user 10001 on a
root that is mounted read-only, with a bundle at /bundle, and has to answer `POST /classify`. The bundle is a tiny one,
unless one is given: `python -m tests.rehearsals.image BUNDLE`.

Needs Linux, root, and Debian's `buildah` and `debootstrap`. What it does not show: the pinned base itself, and the
image for GPUs. Exits with 1 unless every promise holds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.sockets import dead_address
from tests.support.tiny_bundle import build_bundle

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "localhost/reflux-rehearsal-base", "localhost/reflux-rehearsal"
MAX_MB = 450.0
USER = 10001
PATIENCE = 60.0
FORBIDDEN = ("cc", "gcc", "g++", "c++", "clang", "ld", "make", "pip", "pip3")
COMMANDS = ("serve", "worker", "migrate", "pull", "replay", "status")

CA = Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT = os.environ | {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}


def buildah(*arguments: str, quiet: bool = True) -> str:
    """Run buildah and return what it printed."""
    done = subprocess.run(
        ["buildah", *arguments], env=ENVIRONMENT, check=True, text=True, stdout=subprocess.PIPE if quiet else None
    )
    return (done.stdout or "").strip()


def make_base() -> None:
    """Make a base image with Python, if there is none yet."""
    if BASE in buildah("images", "--format", "{{.Name}}"):
        return
    with tempfile.TemporaryDirectory() as folder:
        packages = "--include=python3,python3-venv,ca-certificates"
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, "bookworm", folder], check=True, stdout=subprocess.DEVNULL
        )
        shutil.rmtree(f"{folder}/var/cache/apt")
        shutil.rmtree(f"{folder}/var/lib/apt/lists")
        if CA.exists():  # of a machine that reaches package indexes through a proxy
            shutil.copy(CA, f"{folder}{CA}")
        container = buildah("from", "scratch")
        buildah("copy", "--quiet", container, folder, "/")
        buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        buildah("commit", "--quiet", "--rm", container, BASE)


def build() -> None:
    """Build the Dockerfile on that base. Pip's settings of this machine hold there, too."""
    settings = [f"--env={name}" for name in ENVIRONMENT if name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT")]
    buildah(
        *("bud", "--pull-never", *settings, "--build-arg", f"BASE_IMAGE={BASE}"),
        *("--tag", IMAGE, "--file", str(ROOT / "Dockerfile"), str(ROOT)),
        quiet=False,
    )


@contextmanager
def mounted() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the root of the image, and its configuration."""
    container = buildah("from", "--pull-never", IMAGE)
    try:
        inspected = json.loads(buildah("inspect", container))
        yield Path(buildah("mount", container)), inspected["OCIv1"]["config"]
    finally:
        buildah("rm", container)


def megabytes(root: Path) -> float:
    """Return the bytes of all files below `root`, in millions; a file with two names counts once."""
    files = {(status := file.lstat()).st_ino: status.st_size for file in root.rglob("*") if not file.is_dir()}
    return sum(files.values()) / 1e6


def largest(root: Path) -> list[str]:
    """Return lines on what takes the space."""
    (packages,) = root.glob("opt/reflux/lib/python3*/site-packages")
    sizes = {"opt/reflux": megabytes(root / "opt/reflux"), "all else": megabytes(root) - megabytes(root / "opt/reflux")}
    sizes |= dict(sorted(((f.name, megabytes(f)) for f in packages.iterdir() if f.is_dir()), key=lambda x: -x[1])[:8])
    return [f"{size:8.1f} MB  {name}" for name, size in sizes.items()]


def found(root: Path) -> list[str]:
    """Return the programs and packages that must not be there."""
    folders = ("usr/local/bin", "usr/bin", "bin", "usr/sbin", "opt/reflux/bin")
    programs = [f"/{folder}/{name}" for folder in folders for name in FORBIDDEN if (root / folder / name).exists()]
    return programs + [str(path.relative_to(root)) for path in root.rglob("pip/__init__.py")]


def inside(root: Path, config: dict[str, Any], bundle: Path, data: Path, *command: str) -> list[str]:
    """Return a command that runs `command` in the image, with a root that is read-only, as the image's user."""
    script = """
set -e
mount --bind "$ROOT" "$ROOT"
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
mkdir -p "$ROOT/bundle"
mount --bind "$BUNDLE" "$ROOT/bundle"
mount --bind "$DATA" "$ROOT/data"
mount -o remount,ro,bind "$ROOT/bundle"
mount -o remount,ro,bind "$ROOT"
exec chroot --userspec "$USER" "$ROOT" env --ignore-environment "$@"
"""
    names = {"ROOT": str(root), "BUNDLE": str(bundle), "DATA": str(data), "USER": config["User"]}
    outer = ["env", *(f"{name}={value}" for name, value in names.items())]
    return [*outer, "unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, "-", *command]


def classified(root: Path, config: dict[str, Any], bundle: Path, folder: Path) -> dict[str, Any]:
    """Run the image's own command and return what it answers to a text.

    Raises:
        SystemExit: it gave no answer in time.
    """
    data = folder / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    address = dead_address()
    port = address.rpartition(":")[2]
    log = folder / "log"
    with log.open("w") as file:
        command = inside(root, config, bundle, data, *config["Env"], f"REFLUX_PORT={port}", *config["Cmd"])
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until and process.poll() is None:
                try:
                    answer = httpx.post(f"http://{address}/classify", json={"text": "a refund, please"})
                except httpx.TransportError:
                    time.sleep(0.2)
                    continue
                if answer.status_code == httpx.codes.OK:
                    body: dict[str, Any] = answer.json()
                    return body
                time.sleep(0.2)
        finally:
            process.kill()  # unshare kills what it started
            process.wait()
    raise SystemExit(f"the image's command gave no answer:\n{log.read_text()}")


def main() -> int:
    """Build, look, run; print what was found."""
    missing = [program for program in ("buildah", "debootstrap", "unshare") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        print(f"needs root and {', '.join(missing) or 'nothing else'} (apt-get install buildah debootstrap)")
        return 1
    make_base()
    build()
    promises: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as name, mounted() as (root, config):
        folder = Path(name)
        folder.chmod(0o755)
        if sys.argv[1:]:
            bundle = Path(sys.argv[1])
        else:
            bundle = folder / "bundle"
            build_bundle(bundle)
        size = megabytes(root)
        print("\n".join(largest(root)))
        promises[f"{size:.0f} MB, less than {MAX_MB:.0f}"] = size < MAX_MB
        promises[f"no compiler, no pip: found {found(root) or 'none'}"] = not found(root)
        promises[f"user {config['User']}"] = config["User"] == f"{USER}:{USER}"
        sbom = json.loads((root / "opt/reflux/sbom.cdx.json").read_text())
        names = {component["name"] for component in sbom["components"]}
        promises[f"SBOM: {sbom['bomFormat']} {sbom['specVersion']}, {len(names)} packages"] = {
            "onnxruntime", "numpy", "psycopg"
        } <= names  # fmt: skip
        title = config["Labels"]["org.opencontainers.image.title"]
        promises[f"labels: {title} {config['Labels']['org.opencontainers.image.version']}"] = title == "reflux"
        tried = subprocess.run(
            inside(root, config, bundle, folder, *config["Env"], "sh", "-c", "id -u; touch /x || touch /opt/reflux/x"),
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        promises[f"read-only root as {tried.stdout.strip()}"] = (
            tried.returncode != 0 and tried.stdout.strip() == str(USER) and "Read-only" in tried.stderr
        )
        for command in COMMANDS:
            helped = subprocess.run(
                inside(root, config, bundle, folder, *config["Env"], "reflux", command, "--help"),
                capture_output=True, check=False,
            )  # fmt: skip
            promises[f"reflux {command}"] = helped.returncode == 0
        imports = subprocess.run(
            inside(root, config, bundle, folder, *config["Env"], "python", "-c", "import onnxruntime, psycopg"),
            capture_output=True, check=False,
        )  # fmt: skip
        promises["ONNX Runtime and PostgreSQL's client load"] = imports.returncode == 0
        answer = classified(root, config, bundle, folder)
        promises[f"answers /classify: {json.dumps(answer)[:80]}"] = "label" in json.dumps(answer)
    for promise, kept in promises.items():
        print(f"{'kept  ' if kept else 'BROKEN'}  {promise}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
