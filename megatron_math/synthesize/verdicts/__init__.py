"""Verdicts on what a model wrote: each check alone, true, false, or None where it does not apply.

A check that needs no model is a function of a candidate in a file of its own, named in
`local.LOCAL_CHECKS`; one that asks models is part of `asked`. `rule` says what is accepted.
"""
