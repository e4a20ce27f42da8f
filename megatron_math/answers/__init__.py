"""Find the final answer in a text; decide whether two answers are equal.

Reads texts and answers from the caller, no files. Writes nothing. Promise: any input gets a
verdict within the limit, and the calling process lives on.
"""
