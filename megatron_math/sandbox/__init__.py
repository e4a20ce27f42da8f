"""Processes that may be killed: untrusted Python (`python.py`), and slow graders (`pool.py`).

Reads nothing. Writes nothing. Promise: whatever an item does to its process, the caller has an
answer within the limit, in order, and lives on; untrusted code reaches nothing outside.
"""
