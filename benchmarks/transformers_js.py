"""Compare transformers.js on the folder of `reflux export BUNDLE --format hub` with the bundle.

    python benchmarks/transformers_js.py BUNDLE

It installs `@huggingface/transformers` from npm in a temporary folder, without package scripts, which would download
CUDA, and classifies the bundle's golden texts under Node, offline. Prints the largest difference between the
probabilities and the bundle's own, and the time per text, one at a time. The exit status is 1 if a probability differs
by more than 0.001, except for truncated texts: transformers.js truncates in another way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.hub import export_hub

_PACKAGE = "@huggingface/transformers@4.3.2"
_ALLOWED = 1e-3

_SCRIPT = """
import { readFileSync } from "node:fs";
import { env, pipeline } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = process.cwd();
const classify = await pipeline("text-classification", "hub", { local_files_only: true });
for (const text of JSON.parse(readFileSync("texts.json", "utf-8"))) {
  const start = performance.now();
  const [scores] = await classify([text], { top_k: null });
  console.log(JSON.stringify({ scores, milliseconds: performance.now() - start }));
}
"""


def main() -> None:
    """Export, install, classify and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = Bundle.open(parser.parse_args().bundle)
    classifier = Classifier.load(bundle)
    texts = [row.text for row in bundle.golden()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_hub(bundle, folder / "hub")
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        (folder / "classify.mjs").write_text(_SCRIPT, encoding="utf-8")
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", _PACKAGE]
        subprocess.run(install, cwd=folder, check=True)
        lines = subprocess.run(
            ["node", "classify.mjs"], cwd=folder, check=True, stdout=subprocess.PIPE, encoding="utf-8"
        ).stdout.splitlines()
    answers = [json.loads(line) for line in lines]
    whole, cut = [0.0], [0.0]
    for text, answer in zip(texts, answers, strict=True):
        expected = classifier.classify(text)
        scores = {each["label"]: each["score"] for each in answer["scores"]}
        found = [scores[label] for label in bundle.manifest.labels]
        off = max(abs(a - b) for a, b in zip(found, expected.probabilities.tolist(), strict=True))
        (cut if expected.truncated else whole).append(off)
    print(f"{_PACKAGE}, {len(texts)} golden texts of {bundle.manifest.name}, variant {bundle.manifest.variant}")
    print(f"largest difference of a probability: {max(whole):.2g} ({len(whole) - 1} texts that were read whole)")
    print(f"largest difference of a probability: {max(cut):.2g} ({len(cut) - 1} texts that were cut)")
    print(f"median milliseconds per text: {statistics.median(answer['milliseconds'] for answer in answers):.2f}")
    sys.exit(max(whole) > _ALLOWED)


if __name__ == "__main__":
    main()
