"""`reflux k8s`: the kustomize overlay of one's own deployment, on top of the folder `k8s` of a checkout."""
