"""Rehearse the image: `make rehearse-image`, or `make rehearse-image IMAGE=gpu` for the one for GPUs.

The Dockerfile is built for real, without a container engine: buildah runs its steps in a chroot, on a Debian bookworm
with Python that debootstrap makes in place of the pinned base. Then the image's command runs as the user 10001 on a
root that is mounted read-only, with a bundle at /bundle, and has to answer `POST /classify`. The bundle is a tiny one,
unless one is given: `python -m tests.rehearsals.image cpu BUNDLE`.

The image for GPUs runs here without a GPU: its CUDA has to load, but for the driver, `REFLUX_DEVICE=cuda` has to be
refused, and by default the CPU has to answer, with a warning.

Needs Linux, root, Debian's `buildah` and `debootstrap`, and for GPUs 20 GB of disk. What it does not show: the pinned
base itself, and a run on a GPU. Exits with 1 unless every promise holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.sockets import dead_address
from tests.support.tiny_bundle import build_bundle

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "localhost/reflux-rehearsal-base", "localhost/reflux-rehearsal"
MAX_MB = {"cpu": 450.0, "gpu": 2700.0}
PACKAGES = {"cpu": {"onnxruntime"}, "gpu": {"onnxruntime-gpu", "nvidia-cublas", "nvidia-cudnn-cu13"}}
USER = 10001
PATIENCE = 300.0
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


def build(runtime: str) -> None:
    """Build the Dockerfile on that base for a `runtime`. Pip's settings of this machine hold there, too."""
    settings = [f"--env={name}" for name in ENVIRONMENT if name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT")]
    buildah(
        *("bud", "--pull-never", *settings, "--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", f"RUNTIME={runtime}"),
        *("--tag", f"{IMAGE}:{runtime}", "--file", str(ROOT / "Dockerfile"), str(ROOT)),
        quiet=False,
    )


@contextmanager
def mounted(runtime: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the root of the image, and its configuration."""
    container = buildah("from", "--pull-never", f"{IMAGE}:{runtime}")
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
    return [*outer, "unshare", "--mount", "--pid", "--fork", "bash", "-c", script, "-", *command]


@contextmanager
def started(inside_it: list[str], **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a command of `inside`, and kill it in the end.

    Its whole group is killed: what changes its user is no longer killed with its parent by `unshare`.
    """
    process = subprocess.Popen(inside_it, text=True, start_new_session=True, **streams)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ran(inside_it: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of `inside` to its end."""
    with started(inside_it, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(inside_it, process.returncode, stdout, stderr)


def classified(root: Path, config: dict[str, Any], bundle: Path, folder: Path) -> tuple[str, str]:
    """Run the image's own command, and return its answer to a text, and its log.

    Raises:
        SystemExit: it gave no answer in time.
    """
    data = folder / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    address = dead_address()
    port = address.rpartition(":")[2]
    log = folder / "log"
    command = inside(root, config, bundle, data, *config["Env"], f"REFLUX_PORT={port}", *config["Cmd"])
    with log.open("w") as file, started(command, stdout=file, stderr=subprocess.STDOUT) as process:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and process.poll() is None:
            try:
                answer = httpx.post(f"http://{address}/classify", json={"text": "a refund, please"})
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code == httpx.codes.OK:
                return answer.text, log.read_text()
            time.sleep(0.2)
    raise SystemExit(f"the image's command gave no answer:\n{log.read_text()}")


LOAD_CUDA = """
import ctypes, pathlib, export.bundle.session, onnxruntime
onnxruntime.preload_dlls()  # says what of CUDA and cuDNN it cannot load
capi = pathlib.Path(onnxruntime.__file__).parent / "capi"
ctypes.CDLL(str(capi / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
try:
    ctypes.CDLL(str(capi / "libonnxruntime_providers_cuda.so"))
except OSError as error:
    print(error)
"""
DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"
"""All that is missing where there is no driver."""


def without_gpu(root: Path, config: dict[str, Any], bundle: Path, folder: Path, log: str) -> dict[str, bool]:
    """Return what the image for GPUs promises on a host without one, given the `log` of its own command."""
    loaded = ran(inside(root, config, bundle, folder, *config["Env"], "python", "-c", LOAD_CUDA))
    refused = ran(inside(root, config, bundle, folder / "data", *config["Env"], "REFLUX_DEVICE=cuda", *config["Cmd"]))
    told = (refused.stdout + refused.stderr).strip().splitlines() or ["nothing"]
    warnings = [line for line in log.splitlines() if "no GPU was found" in line] or ["nothing"]
    return {
        f"CUDA and cuDNN load but for the driver: {(loaded.stdout + loaded.stderr).strip()[-300:]}": (
            loaded.stdout.strip() == DRIVER and loaded.returncode == 0
        ),
        f"without a GPU the CPU answers, and the log says: {warnings[0][:120]}": "no GPU" in warnings[0],
        f"REFLUX_DEVICE=cuda ends with {refused.returncode}: {told[-1]}": (
            refused.returncode == 1 and "see that a GPU" in told[-1]
        ),
    }


def main() -> int:
    """Build, look, run; print what was found."""
    parser = argparse.ArgumentParser(description="Build an image and hold it to its promises.")
    parser.add_argument("runtime", choices=sorted(MAX_MB), help="which image")
    parser.add_argument("bundle", nargs="?", type=Path, help="the bundle to serve; a tiny one")
    given = parser.parse_args()
    missing = [program for program in ("buildah", "debootstrap", "unshare") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        print(f"needs root and {', '.join(missing) or 'nothing else'} (apt-get install buildah debootstrap)")
        return 1
    make_base()
    build(given.runtime)
    promises: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as name, mounted(given.runtime) as (root, config):
        folder = Path(name)
        folder.chmod(0o755)
        bundle = given.bundle or folder / "bundle"
        if given.bundle is None:
            build_bundle(bundle)
        size = megabytes(root)
        print("\n".join(largest(root)))
        limit = MAX_MB[given.runtime]
        promises[f"{size:.0f} MB, less than {limit:.0f}"] = size < limit
        promises[f"no compiler, no pip: found {found(root) or 'none'}"] = not found(root)
        promises[f"user {config['User']}"] = config["User"] == f"{USER}:{USER}"
        sbom = json.loads((root / "opt/reflux/sbom.cdx.json").read_text())
        names = {component["name"] for component in sbom["components"]}
        promises[f"SBOM: {sbom['bomFormat']} {sbom['specVersion']}, {len(names)} packages"] = (
            PACKAGES[given.runtime] | {"numpy", "psycopg"} <= names
        )
        title = config["Labels"]["org.opencontainers.image.title"]
        promises[f"labels: {title} {config['Labels']['org.opencontainers.image.version']}"] = title == "reflux"
        tried = ran(
            inside(root, config, bundle, folder, *config["Env"], "sh", "-c", "id -u; touch /x || touch /opt/reflux/x")
        )
        promises[f"read-only root as {tried.stdout.strip()}"] = (
            tried.returncode != 0 and tried.stdout.strip() == str(USER) and "Read-only" in tried.stderr
        )
        for command in COMMANDS:
            helped = ran(inside(root, config, bundle, folder, *config["Env"], "reflux", command, "--help"))
            promises[f"reflux {command}"] = helped.returncode == 0
        imports = ran(
            inside(root, config, bundle, folder, *config["Env"], "python", "-c", "import onnxruntime, psycopg")
        )
        promises["ONNX Runtime and PostgreSQL's client load"] = imports.returncode == 0
        answer, log = classified(root, config, bundle, folder)
        promises[f"answers /classify: {answer[:80]}"] = '"label"' in answer
        if given.runtime == "gpu":
            promises |= without_gpu(root, config, bundle, folder, log)
    for promise, kept in promises.items():
        print(f"{'kept  ' if kept else 'BROKEN'}  {promise}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
