"""Compare our server with its peers: the same student, one core, the load from another core.

The servers run one after another, each in an environment of its own, made on first use. In several rounds each gets a
closed loop of 1, 16 and 64 clients, and an open loop of Poisson arrivals at 50, 70 and 90 % of its own capacity and at
one rate that is the same for all. The limit is a loop that tokenises and runs the graph without a server. It is
measured before and after every load, because the machine's speed changes from one load to the next; compared are the
medians, over the rounds, of the ratios to it. Writes results.json, table.md and figure.png, prints our server's ratios,
and fails if a bound does not hold. Compare figures within one run only, on a machine that does nothing else.

    python benchmarks/serving.py --bundle RUN/bundles/encoder --student RUN/students/encoder --static RUN/bundles/static
    python benchmarks/serving.py --bundle RUN/bundles/encoder --only ours,hand --same-graph
    python benchmarks/serving.py --bundle RUN/bundles/encoder --only ours --previous CHECKOUT
    python benchmarks/serving.py --bundle RUN/bundles/encoder --shadow --overload --reload
    python benchmarks/serving.py --bundle RUN/bundles/encoder --shadow --previous CHECKOUT
    python benchmarks/serving.py --cascade RUN/cascade --texts FILE

The servers of others run the student as their users would export it with ONNX Runtime's own tools, made from
`--student`; with `--same-graph` they run the graph of our bundle. `--static` compares a static student with an
endpoint that returns a constant, `--cascade` a cascade with its last stage alone (on `--texts` like those of
production, of which the golden ones are no sample), `--shadow` our server with all traffic shadowed and with none, or
with `--previous` both versions with a sample shadowed, `--witness` with a witness of `--bundle` and without.
`--overload` sends five times the capacity with a deadline, `--reload` replaces the bundle again and again under load.
The first run needs a package index and some 5 GB for the environments.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from serving_tools.bounds import Bound, Part, bounds
from serving_tools.conditions import Conditions
from serving_tools.contenders import CONTENDERS, OURS, Contender, previous
from serving_tools.jobs import begin, finish
from serving_tools.limit import Limit, labels_of
from serving_tools.measure import Measured, measure, over
from serving_tools.overload import overload
from serving_tools.paired import cascade, shadow, shadow_versions, static, witness
from serving_tools.process import ServerError
from serving_tools.reloading import reloads
from serving_tools.report import figure, table, write

from export.bundle.format import Bundle

_HERE = Path(__file__).parent


def main() -> None:
    """Measure, write and print. The exit status is 1 if a bound does not hold."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # exit through the context managers, which stop the servers
    os.sched_setaffinity(0, {given.load_core})
    given.output.mkdir(parents=True, exist_ok=True)
    kept: list[Bound] = []
    for name, run in parts_of(given).items():
        try:
            part = run()
        except ServerError as error:
            sys.exit(f"{name}: {error}")
        write(given.output / f"{name}.json", part)
        kept += part.bounds
    print("\n".join(bound.line() for bound in kept))
    if not all(bound.holds for bound in kept):
        raise SystemExit(1)


def parts_of(given: argparse.Namespace) -> dict[str, Callable[[], Part]]:
    """Return the chosen parts of the benchmark, by name."""
    parts: dict[str, Callable[[], Part]] = {}
    if given.cascade:
        last = given.cascade / Bundle.open(given.cascade).manifest.stages[-1].folder
        parts["cascade"] = lambda: cascade(conditions_of(given, last), given.cascade, given.times)
    if not given.bundle:
        return parts
    conditions = conditions_of(given, given.bundle)
    if given.only:
        parts["results"] = lambda: compare(contenders_of(given), portable(conditions, given), given.output)
    if given.static:
        parts["static"] = lambda: static(conditions_of(given, given.static))
    if given.shadow:
        if given.previous:
            parts["shadow-previous"] = lambda: shadow_versions(conditions, given.previous)
        else:
            parts["shadow"] = lambda: shadow(conditions)
    if given.witness:
        parts["witness"] = lambda: witness(conditions, given.witness)
    if given.overload:
        parts["overload"] = lambda: overload(conditions, given.deadline_ms)
    if given.reload:
        parts["reload"] = lambda: reloads(conditions)
    return parts


def contenders_of(given: argparse.Namespace) -> list[Contender]:
    """Return the chosen servers, and Reflux of another checkout if one is given."""
    chosen = [contender for contender in CONTENDERS if contender.key in given.only]
    return [*chosen, previous(given.previous)] if given.previous else chosen


def compare(contenders: list[Contender], conditions: Conditions, output: Path) -> Part:
    """Measure our server, the loop and the peers; write a table and a figure."""
    rows: list[Measured] = []
    limit = Limit(conditions)
    for contender in contenders:
        rows.append(measure(contender, conditions, limit))
        print(f"{contender.key:15} {told(rows[-1])}", flush=True)
    limit.close()
    loop = limit.typical()
    page = table(rows, loop, conditions)
    (output / "table.md").write_text(page)
    figure(output / "figure.png", rows)
    print(page)
    ours = next((row for row in rows if row.key == OURS), None)
    peers = [row for row in rows if row.key != OURS]
    kept = bounds(ours, peers) if ours is not None else []
    return Part({"conditions": conditions.told(), "loop": loop, "loops": limit.loops, "servers": rows}, kept)


def told(row: Measured) -> str:
    """Return a server's line of progress."""
    closed = ", ".join(
        f"{over(rounds, lambda one: one.share):.2f} at {clients}" for clients, rounds in row.closed.items() if rounds
    )
    return "; ".join(part for part in (closed and f"of the loop's throughput {closed} clients", row.reason) if part)


def portable(conditions: Conditions, given: argparse.Namespace) -> Conditions:
    """Return the conditions with the graph that the servers of others run, exported if needed."""
    if given.same_graph or not peers_of(given.only):
        return conditions
    target = conditions.logs / "portable"
    plan = {"bundle": str(conditions.bundle), "student": str(conditions.student), "target": str(target)}
    finish(begin("portable", plan))
    return replace(conditions, portable=target)


def conditions_of(given: argparse.Namespace, path: Path) -> Conditions:
    """Return what is the same for every server."""
    bundle = Bundle.open(path)
    texts = texts_of(given.texts) if given.texts else [row.text for row in bundle.golden()]
    return Conditions(
        bundle=path.resolve(),
        portable=path.resolve(),
        student=given.student.resolve() if given.student else None,
        texts=texts,
        labels=labels_of(path, texts, given.server_core),
        classes=bundle.manifest.labels,
        environments=given.environments,
        logs=given.output.resolve(),
        server_core=given.server_core,
        load_core=given.load_core,
        rounds=given.rounds,
        seconds=given.seconds,
        warm_up=given.warm_up,
        requests=given.requests,
        seed=given.seed,
    )


def texts_of(path: Path) -> list[str]:
    """Read the texts of a file: one per line, or JSONL rows with a `text`."""
    lines = [line for line in path.read_text().split("\n") if line.strip()]
    return [str(json.loads(line)["text"]) for line in lines] if path.suffix == ".jsonl" else lines


def peers_of(names: Sequence[str]) -> list[str]:
    """Return the names that are servers of others."""
    return [one.key for one in CONTENDERS if one.key in names and one.environment is not None]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [contender.key for contender in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle of an encoder student")
    parser.add_argument("--student", type=Path, help="the student's folder, from which the others' graph is exported")
    parser.add_argument("--same-graph", action="store_true", help="the servers of others run our bundle's graph")
    parser.add_argument("--texts", type=Path, help="one text a line, or .jsonl with `text` (default: the golden ones)")
    parser.add_argument(
        "--only",
        help=f"some of {','.join(names)} (default: all; none with --shadow, --witness, --overload or --reload)",
    )
    parser.add_argument(
        "--previous", type=Path, metavar="CHECKOUT", help="also Reflux of another checkout, with its own .venv"
    )
    parser.add_argument(
        "--static", type=Path, metavar="BUNDLE", help="also compare this static student with a constant"
    )
    parser.add_argument("--cascade", type=Path, metavar="BUNDLE", help="also compare this cascade with its last stage")
    parser.add_argument(
        "--times", type=float, default=3.5, help="the throughput that --cascade requires at 64 clients (default 3.5)"
    )
    parser.add_argument("--shadow", action="store_true", help="the cost of shadowing all traffic")
    parser.add_argument("--witness", type=Path, metavar="FOLDER", help="the cost of this witness of the bundle")
    parser.add_argument("--overload", action="store_true", help="what is answered in time at five times the capacity")
    parser.add_argument("--reload", action="store_true", help="the cost of replacing the bundle under load")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of all loads; medians count (default 10)")
    parser.add_argument("--deadline-ms", type=float, default=100.0, help="deadline of --overload (default 100)")
    parser.add_argument(
        "--environments", type=Path, default=_HERE / ".environments", help="folder of the peers' environments"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/serving"))
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one load (default 1)")
    parser.add_argument("--warm-up", type=float, default=0.4, help="seconds before it that do not count (default 0.4)")
    parser.add_argument("--requests", type=int, default=400, help="least number per open loop (default 400)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="seed of the arrivals")
    given = parser.parse_args()
    if given.only is None:
        given.only = (
            [] if not given.bundle or given.shadow or given.witness or given.overload or given.reload else names
        )
    else:
        given.only = [name for name in given.only.split(",") if name]
    if unknown := sorted(set(given.only) - set(names)):
        parser.error(f"--only: {', '.join(unknown)} unknown; known are {', '.join(names)}")
    if not given.bundle and (not given.cascade or given.shadow or given.witness or given.overload or given.reload):
        parser.error("--bundle is missing: only --cascade works without it")
    if given.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    if peers_of(given.only) and not given.same_graph and given.student is None:
        parser.error("--student is missing: the graph of the others is exported from it; or give --same-graph")
    return given


if __name__ == "__main__":
    main()
