"""Scores of what is left by a small model, and the choice of the best.

`run` is the sieve, `scorers` are a linear classifier, a model's loss and a model's yes or no.
"""
