"""Evaluate: ask the model before and the model after, judge the answers, count.

Reads: 00_base and 60_export (or 50_train's checkpoint, or whoever `engine` names), the rows of the
chosen benchmarks.
Writes: 70_evaluate/answers.jsonl; below it <who>/<exam>/predictions.jsonl and scores.json, and
<who>/summary.json.
Promise: every row is asked once, also across kills; `grade` gives the same scores again; a model
that is not there has a written reason instead of a score.

In the order of the work: config, exam (what is asked), candidate (who), ask and tool (what came
back), grade and pick (what counts), scores and compare (numbers), run (the stage).
"""
