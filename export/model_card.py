"""Write the model card of a bundle, in Markdown: what it is, its teacher, and what was checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.decision import Rule
from export.bundle.format import Manifest, split_variant
from export.bundle.reference import Reference


def card(manifest: Manifest, reference: Reference, decision: Rule | None = None, stages: Sequence[str] = ()) -> str:
    """Return the text of `CARD.md`.

    `reference` says which live gap is too large; `decision` is the rule of the task, if it has one; `stages` are lines
    that describe those of a cascade.
    """
    gates = [
        f"| {gate['name']} | {gate['measured']:.6g} | {gate['required']:.6g} | {'yes' if gate['passed'] else 'no'} |"
        for gate in manifest.gates.values()
    ]
    several, portable = [], []
    if manifest.multi_label:
        several = [
            f"- Multi-label: a text has every label whose probability is at least {manifest.threshold:g}; "
            "agreement is about its most probable one"
        ]
    if manifest.portable is not None:
        portable = [f"- `{manifest.portable}` runs without Reflux: it takes `input_ids` and `attention_mask` alone"]
    rule = []
    if decision is not None:
        written = json.dumps(decision.model_dump(exclude_defaults=True, exclude_unset=True), ensure_ascii=False)
        rule = [f"- What the application does with an answer (`decision.npz`): `{written}`"]
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            f"A {manifest.role} classifier of the family `{manifest.family}` over {len(manifest.labels)} labels, "
            f"graph variant `{manifest.variant}` ({manifest.measured['reason']}).",
            "",
            *_teacher(manifest.teacher),
            f"- Agreement with the teacher on {manifest.measured['validation_rows']} validation rows, which also chose "
            f"the epoch: {manifest.measured['validation_agreement']:.4f}",
            *_gap(manifest, reference),
            *stages,
            *several,
            *_vocabulary(manifest),
            *_pruned(manifest),
            f"- Reads at most {manifest.max_tokens} tokens",
            f"- Temperature {manifest.temperature:.4f}{_recalibrated(manifest)}",
            f"- Of a longer text it reads the {'end' if manifest.truncation_side == 'left' else 'beginning'}",
            *portable,
            *rule,
            f"- Exported {manifest.created} on {manifest.cpu['machine']} ({', '.join(manifest.cpu['features'])})",
            "",
            "| gate | measured | required | passed |",
            "|---|---|---|---|",
            *gates,
            "",
            *_speeds(manifest),
            "",
            f"Labels: {', '.join(manifest.labels)}",
            "",
        ]
    )


def _gap(manifest: Manifest, reference: Reference) -> list[str]:
    """Say which live gap is too large. A multi-label student has no live gap."""
    if manifest.multi_label:
        return []
    return [
        f"- Its live gap shall stay below {100 * reference.slo:.2f} %, the upper 95 % bound on validation and a point "
        f"more; the ceilings of its confidence bands tolerate {100 * reference.tolerated:.2f} %"
    ]


def _teacher(teacher: Mapping[str, Any]) -> list[str]:
    """Describe the teacher: its name, how its answers were calibrated, its terms."""
    lines = [f"- Teacher: {teacher.get('name', 'unknown')}, version {teacher.get('version', 'unknown')}"]
    calibration = teacher.get("calibration")
    if calibration is not None and calibration["method"] == "temperature":
        lines.append(
            f"- Its answers were calibrated on gold labels, by a temperature of {calibration['temperature']:.4f}"
        )
    elif calibration is not None:
        lines.append("- Its answers were calibrated on gold labels, by a scale and a bias per label")
    for terms in teacher.get("terms", ()):
        permitted = f"; permission to train on its answers: {terms['permission']}" if "permission" in terms else ""
        lines.append(f"- Its terms were acknowledged: {terms['reference']}{permitted}")
    return lines


def _vocabulary(manifest: Manifest) -> list[str]:
    found = manifest.measured.get("vocabulary")
    if found is None:
        return []
    return [
        f"- Its vocabulary is trimmed to {found['kept']:,} of {found['whole']:,} tokens, those of the training texts"
    ]


def _pruned(manifest: Manifest) -> list[str]:
    """Say which parts of the student the served graph lacks."""
    found = manifest.measured.get("pruned", {}).get(split_variant(manifest.variant)[1].removeprefix("-"))
    if found is None:
        return []
    heads, neurons = (
        f"{', '.join(f'{count:,}' for count in found['kept'][part])} of {found['whole'][part][0]:,}"
        for part in ("heads", "neurons")
    )
    fitted = f", and trained again for epochs: {found['epochs']}" if found["epochs"] else ""
    return [f"- Pruned: of each layer's attention heads it has {heads}, of its feed-forward neurons {neurons}{fitted}"]


def _recalibrated(manifest: Manifest) -> str:
    """Say what fitting the temperature to the served graph changed; nothing where it is the student's."""
    found = manifest.measured.get("recalibrated")
    if found is None:
        return ""
    before, after = found["cross_entropy"]
    return (
        f", fitted to this graph (the student's: {found['trained']:.4f}; cross-entropy with the teacher on validation "
        f"{before:.4f} nats at that, {after:.4f} at this one)"
    )


def _speeds(manifest: Manifest) -> list[str]:
    """Return the table of the variants that were tried; of a cascade, of its stages."""
    measured = manifest.measured
    times, variants = measured["milliseconds_by_variant"], measured.get("variants")
    per_text = f"ms per text, {measured['rows']} in a run, one thread"
    if variants is None:
        rows = [f"| {name} | {value:.3f} |" for name, value in times.items()]
        return [f"| variant | {per_text} |", "|---|---|", *rows]
    return [
        f"| variant | {per_text} | share of fp32's time | agreement with fp32 | with the teacher | MiB | |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {times[name]:.3f} | {row['time']:.3f} | {row['agreement']:.4f} "
            f"| {row['teacher_agreement']:.4f} | {row['bytes'] / 2**20:.1f} | {_verdict(name, row, manifest.variant)} |"
            for name, row in variants.items()
        ),
        "",
        "The share of the time is the median over runs of both graphs, one after the other on the same texts. "
        "Agreement is on the validation split. The fastest that passes its gates is served; where several are as fast, "
        "within 5 %, an exact one comes first, then the one with fixed ranges.",
    ]


def _verdict(name: str, row: Mapping[str, Any], served: str) -> str:
    if name == served:
        return "served"
    return "refused" if row["refused"] else ""
