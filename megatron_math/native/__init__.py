"""Typed doors to csrc/, each with a readable NumPy twin. Reads and writes what its callers name."""
