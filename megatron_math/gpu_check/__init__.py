"""Does this GPU compute what a CPU computes, and how fast is a training step on it?

Reads: nothing. Writes: one JSON file, anew after each part, and a page from it.
Promise: each part runs in a process of its own under a time limit; one that crashes, hangs or runs
out of memory is reported and the others go on. What is skipped says why.
"""
