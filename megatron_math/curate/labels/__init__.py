"""Labels of what is left: difficulty, topic, school stage. Counted, and a way to slice.

`run` is the sieve, `difficulty` and `keywords` are rules, `by_model` asks an engine.
"""
