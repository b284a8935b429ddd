"""The model card of a bundle, in Markdown: what it is, whom it learned from, what was checked."""

from __future__ import annotations

from export.bundle import Manifest


def card(manifest: Manifest) -> str:
    """The text of `CARD.md`."""
    gates = [
        f"| {gate['name']} | {gate['measured']:.6g} | {gate['required']:.6g} | {'yes' if gate['passed'] else 'no'} |"
        for gate in manifest.gates.values()
    ]
    teacher = f"{manifest.teacher.get('name', 'unknown')}, version {manifest.teacher.get('version', 'unknown')}"
    speeds = [f"| {name} | {value:.3f} |" for name, value in manifest.measured["milliseconds_by_variant"].items()]
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            f"A {manifest.role} classifier of the family `{manifest.family}` over {len(manifest.labels)} labels, "
            f"graph variant `{manifest.variant}` ({manifest.measured['reason']}).",
            "",
            f"- Teacher: {teacher}",
            f"- Agreement with the teacher on {manifest.measured['validation_rows']} validation rows, which also chose "
            f"the epoch: {manifest.measured['validation_agreement']:.4f}",
            f"- Reads at most {manifest.max_tokens} tokens; temperature {manifest.temperature:.4f}",
            f"- Exported {manifest.created} on {manifest.cpu['machine']} ({', '.join(manifest.cpu['features'])})",
            "",
            "| gate | measured | required | passed |",
            "|---|---|---|---|",
            *gates,
            "",
            "| variant | ms per text, one thread |",
            "|---|---|",
            *speeds,
            "",
            f"Labels: {', '.join(manifest.labels)}",
            "",
        ]
    )
