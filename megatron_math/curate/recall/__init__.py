"""The recall loop of DeepSeekMath: from a few known pages to those of a pool that are like them.

`run` leads through the rounds, `round` makes one, `pages` reads the pool, `domains` finds where the
seed may grow, `choice` takes the best, `features` and `linear` are the classifier.
"""
