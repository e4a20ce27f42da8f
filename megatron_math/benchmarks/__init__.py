"""Benchmarks: one YAML each says where the rows are, how to ask, how to read an answer.

Reads: the YAML files of this folder and the benchmark's rows. Writes nothing.
Promise: a row that cannot be read, or a wrong number of rows, stops; nothing is skipped.
"""
