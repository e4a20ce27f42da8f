"""Evaluate: ask the model before and the model after, judge the answers, count.

Reads: 00_base/hf and 60_export/hf, the rows of the chosen benchmarks.
Writes: 70_evaluate/<who>/<benchmark>/predictions.jsonl and scores.json; who is before or after.
Promise: every row is asked once, in order, also across kills; `grade` gives the same scores again;
a model that is not there has a written reason instead of a score.
"""
