"""Which components of `k8s/components` may stand together in an overlay. What each one is, is said there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from distill.errors import DistillError

INSIDE = {"cpu": frozenset[str](), "gpu": frozenset({"gpu"}), "dev": frozenset({"postgres-dev", "image-volume"})}
"""The components that each overlay of `k8s/overlays` has already."""
AT_MOST_ONE = {
    frozenset({"image-volume", "init-container"}): "both bring the bundle",
    frozenset({"image-volume", "canary-plain"}): "both bring the bundle",
    frozenset({"init-container", "canary-plain"}): "the second includes the first",
    frozenset({"canary-argo", "canary-plain"}): "both try the candidate",
    frozenset({"inflight", "keda"}): "both scale by the texts in flight",
    frozenset({"inflight", "gpu"}): "both scale by the texts in flight",
    frozenset({"external-secrets", "postgres-dev"}): "both make the Secret reflux-database",
}
"""What excludes each other, and why."""


def clash(component: str, others: Collection[str]) -> tuple[str, str] | None:
    """Return the first of `others` that excludes a component, and why, or None."""
    found = ((other, AT_MOST_ONE.get(frozenset({component, other}))) for other in sorted(others))
    return next(((other, why) for other, why in found if why is not None), None)


def require_together(components: Sequence[str], overlay: str) -> None:
    """Raise DistillError unless components may be added to an overlay, all together."""
    for name in components:
        if name in ("image-volume", "init-container"):
            raise DistillError(f"--with {name}: give --delivery {name}, which names the bundle by its digest")
        if name in INSIDE[overlay]:
            raise DistillError(f"--with {name}: the overlay {overlay} has it already; leave it out")
        if found := clash(name, {*components, *INSIDE[overlay]}):
            other, why = found
            raise DistillError(f"--with {name} and {other}: {why}; leave one out")
