#!/usr/bin/env bash
# One Parquet file, written as CSV by four libraries, has four spellings of the same values.
#
# pandas 2.3.3, polars 1.35.2, pyarrow 22.0.0, duckdb 1.4.2. The row is (1.0, true, 1e16) as float64, bool and float64:
#   pyarrow 1,true,1e+16     pandas 1.0,True,1e+16     polars 1.0,true,1e16     duckdb 1.0,true,1e+16
# Whoever exports train with one and test with another has labels that never match, although no value was changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off pandas==2.3.3 polars==1.35.2 pyarrow==22.0.0 duckdb==1.4.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import io

import duckdb
import pandas
import polars
import pyarrow.csv
import pyarrow.parquet

table = pyarrow.table({"number": [1.0], "flag": [True], "large": [1e16]})
pyarrow.parquet.write_table(table, "one.parquet")
buffer = io.BytesIO()
pyarrow.csv.write_csv(pyarrow.parquet.read_table("one.parquet"), buffer)
duckdb.sql("COPY (FROM 'one.parquet') TO 'duckdb.csv'")
written = {
    "pyarrow": buffer.getvalue().decode(),
    "pandas": pandas.read_parquet("one.parquet").to_csv(index=False),
    "polars": polars.read_parquet("one.parquet").write_csv(),
    "duckdb": open("duckdb.csv").read(),
}
rows = {name: text.splitlines()[1] for name, text in written.items()}
for name, row in rows.items():
    print(f"{name}: {row}")
expected = {
    "pyarrow": "1,true,1e+16",
    "pandas": "1.0,True,1e+16",
    "polars": "1.0,true,1e16",
    "duckdb": "1.0,true,1e+16",
}
raise SystemExit(rows != expected)
PYTHON
