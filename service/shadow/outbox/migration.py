"""From schema 1, in which most counts were sums over rows, to schema 2, which has them in tallies."""

from __future__ import annotations

import sqlite3

from service.shadow.history import LOST, WITHOUT_ROWS
from service.shadow.outbox.tables import ADDED, SCHEMA, TABLES_2

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


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an outbox of schema 1 to schema 2, within the caller's transaction.

    Rows become cells of their time, and requests, whose times are not known, become cells of slot 0, with the
    propensity that their band had last. Pending rows are tallied for no teacher, until one adopts them. Classes stay
    unknown.
    """
    connection.execute("ALTER TABLE tallies RENAME TO old")
    for column in ADDED:
        connection.execute(f"ALTER TABLE rows ADD COLUMN {column}")
    for statement in TABLES_2:
        connection.execute(statement)
    connection.execute(_FROM_ROWS)
    connection.execute(_FROM_TALLIES)
    connection.execute("DROP TABLE old")
    connection.execute(
        "UPDATE rows SET finished = place FROM (SELECT seq AS of, row_number() OVER (ORDER BY answered, seq) AS place"
        " FROM rows WHERE outcome IS NOT NULL) WHERE seq = of"
    )
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
