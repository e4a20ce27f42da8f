"""Reads: manifests, stats, metrics, scores, plan and receipt of a run folder.
Writes: 80_report/index.html, one static page, and data.json with every number on it.
Promise: every number has a file it came from; a missing score prints as missing, never 0.
"""
