"""The counts on disk: those of `history`, read, increased, replaced and folded within a caller's transaction.

Counts of texts with rows are increased together with their rows, so that a crash neither loses nor repeats one. Counts
without rows are replaced by the values in memory, so that writing them twice changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from service.shadow.history import COLUMNS, WITH_ROWS, WITHOUT_ROWS, Changes
from service.shadow.outbox.rows import RowResult
from service.shadow.outbox.sql import Connection
from service.shadow.outcome import Outcome
from service.shadow.slots import DAY, HOUR, Key, Pair, folded, hour_of, slot_of

_KEY = "bundle, teacher, slot, band, propensity"
_PAIR = "bundle, teacher, hour, band, propensity, student_class, teacher_class"


def _upsert(columns: Sequence[str], changes: str) -> str:
    return (
        f"INSERT INTO tallies ({_KEY}, {', '.join(columns)}) VALUES ({', '.join('?' * (5 + len(columns)))})"
        f" ON CONFLICT ({_KEY}) DO UPDATE SET {changes}"
    )


def _increased(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in columns)


_REPLACE = _upsert(WITHOUT_ROWS, ", ".join(f"{name} = excluded.{name}" for name in WITHOUT_ROWS))
_ADD = _upsert((*WITHOUT_ROWS, "sampled"), _increased("tallies", (*WITHOUT_ROWS, "sampled")))
_INCREASE = _upsert(WITH_ROWS, _increased("tallies", WITH_ROWS))
_INCREASE_PAIR = (
    f"INSERT INTO pairs ({_PAIR}, count) VALUES (?, ?, ?, ?, ?, ?, ?, 1)"
    f" ON CONFLICT ({_PAIR}) DO UPDATE SET count = pairs.count + 1"
)


class Tallies:
    """The counts of one bundle version and one teacher. `hour` is the one to which the file was folded last."""

    def __init__(self, bundle: str, teacher: str) -> None:
        self.hour = 0
        self._bundle, self._teacher = bundle, teacher

    def load(self, connection: Connection, bands: int) -> tuple[list[tuple[float, ...]], list[tuple[Pair, int]]]:
        """Return slot, band, propensity and COLUMNS of each cell, and each pair of classes with its count."""
        owner = (self._bundle, self._teacher)
        query = f"SELECT slot, band, propensity, {', '.join(COLUMNS)} FROM tallies"
        cells = connection.execute(query + " WHERE bundle = ? AND teacher = ? AND band < ?", (*owner, bands)).fetchall()
        query = "SELECT hour, band, propensity, student_class, teacher_class, count FROM pairs"
        pairs = connection.execute(query + " WHERE bundle = ? AND teacher = ? AND band < ?", (*owner, bands))
        return cells, [(Pair(*pair), count) for *pair, count in pairs]

    def replace(self, connection: Connection, changes: Changes) -> None:
        """Store counts without rows, by their values."""
        self._store(connection, _REPLACE, zip(changes.keys, changes.values, strict=True))

    def add(
        self, connection: Connection, differences: Mapping[Key, Sequence[float]], sampled: Mapping[Key, int]
    ) -> None:
        """Add to the counts: differences of WITHOUT_ROWS for each key, and numbers of `sampled` texts with rows."""
        nothing = (0.0,) * len(WITHOUT_ROWS)
        # All in one order, so that no two writers wait for each other.
        keys = sorted({*differences, *sampled})
        rows = ((key, (*differences.get(key, nothing), sampled.get(key, 0))) for key in keys)
        self._store(connection, _ADD, rows)

    def sample(self, connection: Connection, counts: Mapping[Key, int], teacher: str | None = None) -> None:
        """Add to the number of sampled texts with rows; of another `teacher` than this one, if it is given."""
        for key, count in counts.items():
            self._increase(connection, key, {"sampled": count}, teacher)

    def finish(self, connection: Connection, key: Key, result: RowResult) -> None:
        """Count the end of a row."""
        sums: dict[str, float] = {"tokens": result.tokens, "cost_usd": result.cost_usd}
        if result.outcome is not Outcome.COMPLETED:
            sums[result.outcome.value] = 1
        if (comparison := result.comparison) is not None:
            sums["agreed" if comparison.agree else "disagreed"] = 1
            sums |= {"kl": comparison.kl, "kl_sq": comparison.kl**2, "js": comparison.js, "js_sq": comparison.js**2}
            if comparison.decision_agree is not None:
                sums["decision_agreed" if comparison.decision_agree else "decision_disagreed"] = 1
            hour = folded(hour_of(key.slot), self.hour, DAY)
            classes = (comparison.student_class, comparison.teacher_class)
            connection.execute(_INCREASE_PAIR, (self._bundle, self._teacher, hour, *key[1:], *classes))
        self._increase(connection, key, sums)

    def adopt(self, connection: Connection, where: str = "", lock: str = "") -> None:
        """Take over the pending rows that were sampled for another teacher, with their count.

        `where` restricts the rows and `lock` keeps them as they are meanwhile, in SQL.
        """
        mine = (self._bundle, self._teacher)
        others = f"bundle = ? AND outcome IS NULL AND coalesce(teacher, '') != ?{where}"
        query = f"SELECT coalesce(teacher, ''), time, band, propensity FROM rows WHERE {others}{lock}"
        taken: Counter[tuple[str, Key]] = Counter(
            (teacher, Key(slot_of(time), band, propensity))
            for teacher, time, band, propensity in connection.execute(query, mine)
        )
        for (teacher, key), count in sorted(taken.items()):
            self.sample(connection, {key: -count}, teacher)
            self.sample(connection, {key: count})
        if taken:
            connection.execute(f"UPDATE rows SET teacher = ? WHERE {others}", (self._teacher, *mine))

    def adopt_counts(self, connection: Connection, teacher: str) -> None:
        """Take over all counts of the bundle that belong to `teacher`."""
        columns = ", ".join(COLUMNS)
        connection.execute(
            f"INSERT INTO tallies ({_KEY}, {columns}) SELECT bundle, ?, slot, band, propensity, {columns} FROM tallies"
            f" WHERE bundle = ? AND teacher = ? ON CONFLICT ({_KEY}) DO UPDATE SET {_increased('tallies', COLUMNS)}",
            (self._teacher, self._bundle, teacher),
        )
        connection.execute("DELETE FROM tallies WHERE bundle = ? AND teacher = ?", (self._bundle, teacher))

    def fold(self, connection: Connection, hour: int) -> None:
        """Merge the counts of old slots, of all bundles and teachers; `hour` as in `slots.folded`."""
        for table, key, slot, length, names in (
            ("tallies", _KEY, "slot", HOUR, COLUMNS),
            ("pairs", _PAIR, "hour", DAY, ("count",)),
        ):
            weeks, days = hour - 8 * DAY, hour - DAY
            old = f"{slot} > 0 AND ({slot} < {weeks} OR {slot} < {days} AND {slot} % {length} > 0)"
            target = key.replace(slot, f"CASE WHEN {slot} < {weeks} THEN 0 ELSE {slot} / {length} * {length} END")
            groups = ", ".join(str(number + 1) for number in range(len(key.split(","))))
            connection.execute(
                f"INSERT INTO {table} ({key}, {', '.join(names)})"
                f" SELECT {target}, {', '.join(f'sum({name})' for name in names)} FROM {table} WHERE {old}"
                f" GROUP BY {groups} ON CONFLICT ({key}) DO UPDATE SET {_increased(table, names)}"
            )
            connection.execute(f"DELETE FROM {table} WHERE {old}")
        self.hour = hour

    def _store(self, connection: Connection, statement: str, counts: Iterable[tuple[Key, Sequence[float]]]) -> None:
        connection.executemany(statement, ((self._bundle, self._teacher, *key, *values) for key, values in counts))

    def _increase(
        self, connection: Connection, key: Key, sums: Mapping[str, float], teacher: str | None = None
    ) -> None:
        slot = folded(key.slot, self.hour)
        owner = (self._bundle, self._teacher if teacher is None else teacher)
        connection.execute(_INCREASE, (*owner, slot, *key[1:], *(sums.get(name, 0) for name in WITH_ROWS)))
