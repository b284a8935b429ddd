"""Present what `distill.sufficiency.check` found as lines of text. It computes nothing."""

from __future__ import annotations

from typing import Any

from distill.data.checks import ENOUGH_PER_LABEL
from distill.data.spelling import plain
from distill.evaluation.intervals import Interval
from distill.evaluation.report.formats import percent
from distill.sufficiency.verdict import Remedy, points, price

_SHOWN = 3  # labels that look wrong
_WIDTH = 80  # characters of their texts


def lines(found: dict[str, Any]) -> list[str]:
    """Return the lines: what was measured, then the verdict and what to do."""
    return [
        "",
        "Enough data?",
        *_size(found),
        *_labels(found["labels"]),
        *_diversity(found),
        *_teacher(found["teacher"]),
        *_curve(found),
        *_noise(found),
        "",
        *_verdict(found),
    ]


def _size(found: dict[str, Any]) -> list[str]:
    rows, (least, most) = found["size"]["train"], found["size"]["rule"]
    place = "fewer than" if rows < least else "more than" if rows > most else "within"
    return [f"- size: {rows:,} texts to train on, {place} the {least:,} to {most:,} that distillation profits from"]


def _labels(labels: dict[str, Any]) -> list[str]:
    counts = labels["per_label"]
    if not counts:
        return ["- labels: no text to train on has one yet"]
    (rarest, fewest), (commonest, most) = (pick(counts.items(), key=lambda one: one[1]) for pick in (min, max))
    thin = sum(count < ENOUGH_PER_LABEL for count in counts.values())
    return [
        f"- labels ({labels['of']}): {labels['rows']:,} rows of {len(counts)} labels, from {fewest:,} "
        f"({plain(rarest)}) to {most:,} ({plain(commonest)}); {thin} with fewer than {ENOUGH_PER_LABEL}"
    ]


def _diversity(found: dict[str, Any]) -> list[str]:
    varied = found["diversity"]
    if varied is None:
        return []
    return [
        f"- diversity: {100 * varied['unknown']:.1f} % of the words of validation are not in train, "
        f"{100 * varied['twins']:.1f} % of the texts have a near twin in train, and the labels in use count like "
        f"{varied['labels']:.1f} equally frequent ones",
    ]


def _teacher(teacher: dict[str, Any]) -> list[str]:
    if not (teacher["labelled"] or teacher["refused"] or teacher["invalid"]):
        return ["- teacher: it has labelled no text yet"]
    share = 100 * teacher["labelled"] / teacher["texts"]
    altered = f", {teacher['altered']:,} of them views or paraphrases" if teacher["altered"] else ""
    told = (
        f"- teacher: it has labelled {teacher['labelled']:,} of {teacher['texts']:,} texts{altered} ({share:.1f} %), "
        f"refused {teacher['refused']:,}, and named no label for {teacher['invalid']:,}"
    )
    if teacher["covered"] is not None:
        told += f"; {100 * teacher['covered']:.1f} % of its probability is on labels"
    again = teacher["again"]
    if again is None:
        return [told]
    if again["by_construction"]:
        return [f"{told}; it always gives the same answer"]
    return [
        f"{told}; it agrees with itself on {percent(again['agreement'])} of {again['rows']:,} texts asked twice, so no "
        f"student can be expected to agree with it on more than {percent(again['ceiling'])}"
    ]


def _curve(found: dict[str, Any]) -> list[str]:
    curve = found["learning_curve"]
    if not curve["measured"]:
        return [f"- learning curve: not measured: {curve['why']}"]
    what = "agreement with the teacher" if found["labels"]["of"] == "teacher" else "accuracy on gold labels"
    steps = ", ".join(
        f"{size:,}: {100 * right:.1f} %" for size, right in zip(curve["sizes"], curve["right"], strict=True)
    )
    now, twice = (100 * curve[name]["value"] for name in ("now", "twice"))
    return [
        f"- learning curve ({what}, out of fold, of a linear student on word n-grams): {steps}",
        f"- expected with all {found['size']['train']:,} texts: {now:.1f} %; with twice as many: {twice:.1f} %",
    ]


def _noise(found: dict[str, Any]) -> list[str]:
    noise = found["label_noise"]
    if noise is None:
        return []
    share = 100 * noise["suspects"] / noise["rows"]
    told = [f"- label noise: {noise['suspects']:,} of {noise['rows']:,} labels look wrong ({share:.1f} %)"]
    for one in noise["listed"][:_SHOWN]:
        text = " ".join(one["text"].split())
        text = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
        told.append(f"  - {one['id']}, {plain(one['label'])}: rather {plain(one['likely'])}? “{text}”")
    return told


def _verdict(found: dict[str, Any]) -> list[str]:
    shown = [f"verdict: {found['verdict']}: {found['reason']}"]
    for given in found["remedies"]:
        gain = None if given["gain"] is None else Interval(**given["gain"])
        remedy = Remedy(given["action"], given["texts"], given["usd"], gain)
        bring = "" if gain is None else f"; expect {points(gain)}"
        shown.append(f"  - {remedy.action}{bring}{price(remedy, found['teacher']['price'])}")
    if found["learning_curve"]["measured"]:
        shown.append(
            "  (points of the linear student; students with pretrained weights know more before the first text)"
        )
    return shown
