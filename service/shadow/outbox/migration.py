"""From schemas 1 and 2 to schema 3: in 1 most counts were sums over rows, in 2 nothing was deferred to the teacher."""

from __future__ import annotations

import sqlite3

from service.shadow.history import LOST, WITHOUT_ROWS
from service.shadow.outbox.tables import ADDED, ADDED_TALLIES, SCHEMA, TABLES_2

_ENDS = [name for name in LOST if name not in WITHOUT_ROWS]

_FROM_ROWS = f"""
INSERT INTO tallies (bundle, teacher, slot, band, propensity, sampled, agreed, disagreed, kl, kl_sq, js, js_sq,
                     cost_usd, tokens, {", ".join(_ENDS)})
SELECT bundle, CASE WHEN outcome IS NULL THEN '' ELSE teacher END, CAST(time / 300 AS INTEGER) * 300, band, propensity,
       count(*), total(agree = 1), total(agree = 0), total(kl), total(kl * kl), total(js), total(js * js),
       total(cost_usd), total(tokens), {", ".join(f"total(outcome = '{name}')" for name in _ENDS)}
FROM rows GROUP BY 1, 2, 3, 4, 5
"""

_FROM_TALLIES = f"""
INSERT INTO tallies (bundle, teacher, slot, band, propensity, {", ".join(WITHOUT_ROWS)})
SELECT bundle, teacher, 0, band,
       coalesce((SELECT propensity FROM rows WHERE rows.bundle = old.bundle AND rows.band = old.band
                 ORDER BY seq DESC LIMIT 1), 1.0),
       {", ".join(f"total(value) FILTER (WHERE name = '{name}')" for name in WITHOUT_ROWS)}
FROM old GROUP BY bundle, teacher, band
"""

# The weight of a slot is what its rows stand for; `upto` that of all slots up to it, so that requests stay whole.
# `before` is the slot before's `upto` to the last bit: a difference would round another way in some versions of SQLite.
_SPREAD_REQUESTS = """
WITH sampled AS (
    SELECT bundle, teacher, band, CAST(time / 300 AS INTEGER) * 300 AS slot, propensity, sum(1 / propensity) AS weight
    FROM rows WHERE outcome IS NOT NULL GROUP BY 1, 2, 3, 4, 5
), placed AS (
    SELECT *, sum(weight) OVER (PARTITION BY bundle, teacher, band ORDER BY slot, propensity) AS upto,
           sum(weight) OVER (PARTITION BY bundle, teacher, band) AS whole FROM sampled
), bounded AS (
    SELECT *, lag(upto, 1, 0.0) OVER (PARTITION BY bundle, teacher, band ORDER BY slot, propensity) AS before
    FROM placed
), known AS (
    SELECT bundle, teacher, band, total(value) FILTER (WHERE name = 'requests') AS requests,
           total(value) FILTER (WHERE name = 'expected') AS expected FROM old GROUP BY 1, 2, 3
)
UPDATE tallies SET requests = new.requests, expected = new.requests * new.each
FROM (
    SELECT bounded.*, coalesce(known.expected / known.requests, 0) AS each,
           round(known.requests * min(upto / whole, 1.0))
           - round(known.requests * min(before / whole, 1.0)) AS requests
    FROM bounded JOIN known USING (bundle, teacher, band)
) AS new
WHERE (tallies.bundle, tallies.teacher, tallies.band, tallies.slot, tallies.propensity)
    = (new.bundle, new.teacher, new.band, new.slot, new.propensity)
"""

_UNSPREAD = """
UPDATE tallies SET requests = 0, expected = 0
WHERE slot = 0 AND EXISTS (SELECT 1 FROM rows WHERE rows.bundle = tallies.bundle AND rows.teacher = tallies.teacher
                           AND rows.band = tallies.band AND outcome IS NOT NULL)
"""


def migrate(connection: sqlite3.Connection, schema: int) -> None:
    """Bring an outbox of `schema` 1 or 2 to this version's, within the caller's transaction."""
    if schema == 1:
        _tally(connection)
    else:
        for column in ADDED_TALLIES:
            connection.execute(f"ALTER TABLE tallies ADD COLUMN {column}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _tally(connection: sqlite3.Connection) -> None:
    """Count the rows of schema 1.

    Rows become cells of their time. The times of requests are not known: those of a band are spread over its cells as
    the rows are, weighted by 1 / propensity; without rows they become a cell of slot 0. Pending rows are tallied for no
    teacher, until one adopts them. Classes stay unknown.
    """
    connection.execute("ALTER TABLE tallies RENAME TO old")
    for column in ADDED:
        connection.execute(f"ALTER TABLE rows ADD COLUMN {column}")
    for statement in TABLES_2:
        connection.execute(statement)
    connection.execute(_FROM_ROWS)
    connection.execute(_FROM_TALLIES)
    connection.execute(_UNSPREAD)
    connection.execute(_SPREAD_REQUESTS)
    connection.execute("DROP TABLE old")
    connection.execute(
        "UPDATE rows SET finished = place FROM (SELECT seq AS of, row_number() OVER (ORDER BY answered, seq) AS place"
        " FROM rows WHERE outcome IS NOT NULL) WHERE seq = of"
    )
