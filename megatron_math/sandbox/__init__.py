"""A warm pool of killable processes for work that may hang, eat memory or crash.

Reads nothing. Writes nothing. Promise: whatever an item does to its process, the pool answers
within the limit, in order, and the calling process lives on.
"""
