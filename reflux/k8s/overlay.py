"""The overlay of one's own deployment: a bundle, an image, a teacher and a database, on top of one in `k8s/overlays`.

What the objects are is said in `k8s/`. What is written here is its owner's from then on: nothing changes it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.errors import DistillError
from export.delivery.signature import read_public_key
from reflux.k8s.components import require_together
from reflux.k8s.jobs import JOBS, jobs_of
from reflux.k8s.patches import Patch, delete, dump, egress, mount, namespace, replace, secret_volume, template
from reflux.k8s.sources import BundleSource
from reflux.k8s.teacher_files import to_mount
from reflux.k8s.teacher_keys import addresses, key_files

_PODS = "reflux|reflux-worker|reflux-canary|reflux-canary-worker"
_WORKERS = "reflux-worker|reflux-canary-worker"
_ACCOUNTS = "reflux|reflux-worker|reflux-promote"
_RUNBOOK = "reflux-runbook"
_SIGNING = "reflux-signing"
_TEACHER = "reflux-teacher"
_CANARY = "canary-plain"
_REDISTILL = "redistill"
_DEFERRING = "deferring"


def _public(file: Path) -> bytes:
    """Return the content of a file that holds a public key. Raises DeliveryError for any other: all may read it."""
    read_public_key(file)
    return file.read_bytes()


@dataclass(frozen=True, slots=True)
class Overlay:
    """What differs from the overlay `device`. `teacher` is one's section of a task file; Secrets are names.

    `distill_image` is that of the component redistill, which pushes its candidates to `candidates`, if given.
    """

    name: str
    namespace: str
    bundle: BundleSource
    image: str
    teacher: dict[str, Any]
    database: str
    device: Literal["cpu", "gpu"] = "cpu"
    components: Sequence[str] = ()
    clients: Sequence[str] = ()
    monitoring: str | None = None
    keys_secret: str | None = None
    teacher_secret: str | None = None
    database_secret: str | None = None
    registry_secret: str | None = None
    verify_key: Path | None = None
    runbook_url: str | None = None
    distill_image: str | None = None
    candidates: str | None = None

    def write(self, folder: Path, manifests: Path) -> None:
        """Write the overlay into the new `folder`, relative to Reflux's folder `manifests`.

        Raises DistillError when the folder exists, or the manifests or a component are not there.
        """
        self._require_fit(manifests)
        key = None if self.verify_key is None else _public(self.verify_key)
        document = self.kustomization(os.path.relpath(manifests.resolve(), folder.resolve()))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise DistillError(
                f"{folder} exists, perhaps with changes of yours; remove it, or give another NAME or --output"
            ) from None
        head = f"# Written by `reflux k8s init {self.name}`, which never changes it again. Edit it as you like.\n"
        (folder / "kustomization.yaml").write_text(head + dump(document), encoding="utf-8")
        if key is not None:
            (folder / "key.pub").write_bytes(key)
        if self.runbook_url is not None:
            (folder / "runbook.yaml").write_text(_LOCAL + dump(_runbook(self.runbook_url)), encoding="utf-8")

    def _require_fit(self, manifests: Path) -> None:
        """Raise DistillError unless the manifests are there, and components and options fit together."""
        if not (manifests / "base" / "kustomization.yaml").is_file():
            raise DistillError(f"{manifests} is not Reflux's folder k8s; give the one of a checkout as --manifests")
        known = sorted(path.parent.name for path in manifests.glob("components/*/kustomization.yaml"))
        if missing := [name for name in self.components if name not in known]:
            raise DistillError(f"--with {', '.join(missing)}: no such component; there are {', '.join(known)}")
        require_together(self.components, self.device)
        if _REDISTILL in self.components and self.distill_image is None:
            raise DistillError(
                f"--with {_REDISTILL}: it trains, in an image with torch; build one with RUNTIME=cpu,distill, and add "
                "--distill-image"
            )
        if _REDISTILL not in self.components and (self.distill_image or self.candidates):
            raise DistillError(
                f"--distill-image and --candidates are of --with {_REDISTILL}; add it, or leave them out"
            )
        if _CANARY in self.components and self.bundle.delivery != "init-container":
            raise DistillError(f"--with {_CANARY}: its bundles are pulled; add --delivery init-container")
        if self.verify_key is not None and self.bundle.delivery != "init-container":
            raise DistillError(
                "--verify-key: only `reflux pull` verifies; add --delivery init-container, or leave it to the cluster"
            )
        if self.runbook_url is not None and "monitoring" not in self.components:
            raise DistillError(
                "--runbook-url: there are no alerts without --with monitoring; add it, or leave this out"
            )

    def secrets(self) -> dict[str, list[str]]:
        """Return the files in each Secret that somebody has to make, by the Secret's name."""
        if "external-secrets" in self.components:
            return {}
        found = {}
        if "postgres-dev" not in self.components:
            found[self.database_secret or "reflux-database"] = ["password"]
        if files := key_files(self.teacher):
            found[self.teacher_secret or _TEACHER] = [*files]
        if self.keys_secret is not None:
            found[self.keys_secret] = ["keys"]
        return found

    def notes(self) -> list[str]:
        """Return what else somebody has to make: claims, the login of a registry, volumes of the teacher."""
        asking = "reflux and reflux-worker" if _DEFERRING in self.components else "reflux-worker"
        found = [
            f"Its teacher reads {path}, which no pod has by itself: mount a volume there in {asking}, and in each copy "
            "of its pod."
            for path in to_mount(self.teacher)
        ]
        if len(files := key_files(self.teacher)) > 1:
            readers = "; ".join(f"{file} is the key of {', '.join(members)}" for file, members in files.items())
            found.append(f"In the Secret {self.teacher_secret or _TEACHER}, {readers}.")
        if _REDISTILL in self.components:
            found.append(
                "The Job reflux-redistill needs the claim reflux-redistill with /distil/task.yaml, its files and the "
                "finished run in /distil/run (docs/kubernetes.md, Candidates from the log)."
            )
        pulls = self.bundle.delivery == "init-container" and self.bundle.reference.startswith("oci")
        pushes = self.candidates is not None and self.candidates.startswith("oci")
        if pulls or pushes or self.registry_secret is not None:
            secret = self.registry_secret or "reflux-registry"
            what = " and ".join(["pulls bundles"] * pulls + ["pushes candidates"] * pushes) or "has the images"
            found.append(
                f"A registry that asks for a login, where Reflux {what}, needs the Secret {secret}: kubectl "
                f"--namespace {self.namespace} create secret generic {secret} --type=kubernetes.io/dockerconfigjson "
                "--from-file=.dockerconfigjson=config.json"
            )
        return found

    def kustomization(self, manifests: str) -> dict[str, Any]:
        """Return the document, with `manifests` the way from its folder to Reflux's folder k8s."""
        delivery = [] if self.bundle.delivery == "claim" else [self.bundle.delivery]
        components = dict.fromkeys([*delivery, *self.components])
        if _CANARY in components:  # it includes the delivery, and copies what the others have made
            del components["init-container"], components[_CANARY]
            components[_CANARY] = None
        for name in [name for name in components if name in JOBS and JOBS[name].copied]:
            del components[name]  # copies of what is there, with its delivery
            components[name] = None
        runbook = [] if self.runbook_url is None else ["runbook.yaml"]
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [f"{manifests}/overlays/{self.device}", *runbook],
            "components": [f"{manifests}/components/{name}" for name in components],
            "images": [_image(self.image), *([_image(self.distill_image, _DISTILL)] if self.distill_image else [])],
            "configMapGenerator": self._maps(),
            "patches": [*self._bundle(), *self._secrets(), *self._network(), *self._scaling()],
            "replacements": [_RUNBOOK_URLS] if runbook else [],
        }
        return {key: value for key, value in document.items() if value}

    def _maps(self) -> list[dict[str, Any]]:
        settings = [
            f"REFLUX_SHADOW__DATABASE={self.database}",
            f"REFLUX_SHADOW__TEACHER={json.dumps(self.teacher, separators=(',', ':'))}",
        ]
        if self.keys_secret is not None:
            settings.append("REFLUX_API_KEYS=/keys/keys")
        if self.bundle.delivery == "init-container":
            settings += [f"BUNDLE_SOURCE={self.bundle.reference}", f"BUNDLE_DIGEST={self.bundle.digest}"]
        if self.candidates is not None:
            settings.append(f"CANDIDATE_TARGET={self.candidates}")
        signing: list[dict[str, Any]] = [{"name": _SIGNING, "files": ["key.pub"]}] if self.verify_key else []
        return [{"name": "reflux-settings", "behavior": "merge", "literals": settings}, *signing]

    def _bundle(self) -> list[Patch]:
        match self.bundle.delivery:
            case "image-volume":
                bundle: dict[str, Any] = {"image": {"reference": self.bundle.reference}}
            case "claim":
                bundle = {"persistentVolumeClaim": {"claimName": self.bundle.reference}}
            case _:
                return [] if self.verify_key is None else self._signed()
        spec = {"volumes": [{"name": "bundle", **bundle}]}
        return [template(_PODS, spec), *(job.merged(spec) for job in jobs_of(self.components) if job.copied)]

    def _signed(self) -> list[Patch]:
        one = _verifying(pull="/bundle/bundle")
        both = _verifying(pull_current="/bundle/current", pull_candidate="/bundle/candidate")
        patches = [template(_PODS, one), *(job.merged(one) for job in jobs_of(self.components) if job.copied)]
        return [*patches, JOBS[_CANARY].merged(both)] if _CANARY in self.components else patches

    def _secrets(self) -> list[Patch]:
        volumes = [
            (_PODS, "keys", self.keys_secret),
            (_PODS, "database", self.database_secret),
            (_PODS if _DEFERRING in self.components else _WORKERS, "teacher", self.teacher_secret),
            (_PODS, "registry", self.registry_secret if self.bundle.delivery == "init-container" else None),
        ]
        patches = [mount(pods, volume, secret) for pods, volume, secret in volumes if secret is not None]
        pulled = self.bundle.delivery == "init-container"
        given = {"database": self.database_secret, "teacher": self.teacher_secret, "registry": self.registry_secret}
        for job in jobs_of(self.components):
            mounted = {*job.secrets, *(["registry"] if job.copied and pulled else [])}
            named = ((volume, secret) for volume, secret in given.items() if volume in mounted)
            patches += [job.merged(secret_volume(volume, secret)) for volume, secret in named if secret is not None]
        if "external-secrets" in self.components and len(files := key_files(self.teacher)) > 1:
            remote = [{"secretKey": file, "remoteRef": {"key": "reflux/teacher", "property": file}} for file in files]
            patches.append(replace("ExternalSecret", _TEACHER, "/spec/data", remote))
        if self.registry_secret is not None:
            secrets = [{"name": self.registry_secret}]
            patches.append(replace("ServiceAccount", _ACCOUNTS, "/imagePullSecrets", secrets, "add"))
        return patches

    def _network(self) -> list[Patch]:
        patches = []
        sources = "/spec/ingress/0/from"
        if self.clients:
            patches.append(replace("NetworkPolicy", "reflux-clients", sources, [namespace(n) for n in self.clients]))
        if self.monitoring is not None:
            patches.append(replace("NetworkPolicy", "reflux-monitoring", sources, [namespace(self.monitoring)]))
        if "postgres-dev" not in self.components:
            patches += egress("reflux-database", [self.database], {"postgresql": 5432, "postgres": 5432}, 5432)
        if urls := addresses(self.teacher):
            patches += egress(_TEACHER, urls, {"https": 443, "http": 80}, 443)
        else:  # it is in the pod, and not behind an API
            patches.append(delete("networking.k8s.io/v1", "NetworkPolicy", _TEACHER))
        return patches

    def _scaling(self) -> list[Patch]:
        if "keda" not in self.components:
            return []
        query = f'sum(reflux_inference_inflight{{namespace="{self.namespace}"}})'
        return [replace("ScaledObject", "reflux", "/spec/triggers/1/metadata/query", query)]


_LOCAL = "# For this folder alone: kustomize takes the address from here, and a cluster never sees the object.\n"
_DISTILL = "reflux-distill"
_RUNBOOK_URLS = {
    "source": {"kind": "ConfigMap", "name": _RUNBOOK, "fieldPath": "data.url"},
    "targets": [
        {
            "select": {"kind": "PrometheusRule"},
            "fieldPaths": ["spec.groups.*.rules.*.annotations.runbook_url"],
            "options": {"delimiter": "#", "index": 0},
        }
    ],
}


def _verifying(**folders: str) -> dict[str, Any]:
    """Return what has init containers, each of which pulls to a folder, accept signed bundles alone."""
    command = ["reflux", "pull", "$(BUNDLE_SOURCE)", "{}", "--digest", "$(BUNDLE_DIGEST)"]
    verifying = [
        {
            "name": name.replace("_", "-"),
            "command": [*(part.format(folder) for part in command), "--verify-key", "/signing/key.pub"],
            "volumeMounts": [{"name": "signing", "mountPath": "/signing", "readOnly": True}],
        }
        for name, folder in folders.items()
    ]
    return {
        "initContainers": verifying,
        "volumes": [{"name": "signing", "configMap": {"name": _SIGNING}}],
    }


def _runbook(url: str) -> dict[str, Any]:
    metadata = {"name": _RUNBOOK, "annotations": {"config.kubernetes.io/local-config": "true"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"url": url}}


def _image(reference: str, replaced: str = "reflux") -> dict[str, str]:
    """Return kustomize's replacement of the image `replaced` by `NAME[:TAG][@DIGEST]`."""
    tagged, _, digest = reference.partition("@")
    name, colon, tag = tagged.rpartition(":")
    if not colon or "/" in tag:  # the colon, if any, is the registry's port's
        name, tag = tagged, ""
    found = {"name": replaced, "newName": name}
    return found | ({"digest": digest} if digest else {"newTag": tag} if tag else {})
