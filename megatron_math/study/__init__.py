"""Studies: many roads, one question. Arms x seeds from one YAML, a table with intervals.

Reads: a study's YAML, sidecars of indexes, predictions and validation losses of its roads.
Writes: runs/<study>/<arm>-s<seed>/ (a road each), runs/<study>/results.json and results.csv.
Promise: arms of one budget train on equal tokens or the study is refused; a restart runs only what
is missing; no arm stops another.
"""
