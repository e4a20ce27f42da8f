"""A toy domain whose teachers and students are programs with known error rates.

A problem is a chain of operations on whole numbers. `reply` answers every prompt of the methods as
a model would, and errs as `PLANTED` says; who errs where follows from the text alone, so that a
test can count it again.
"""

import hashlib
import json
import random
import re
from pathlib import Path

PLANTED = {
    "student": 0.5,  # attempts with one wrong step, carried on to the end
    "blind": 0.03,  # judgements that call a wrong attempt correct
    "form": 0.04,  # answers of a teacher that break the form
    "wrong_pair": 0.1,  # new problems with a wrong solution that were accepted all the same
    "refused": 0.05,  # new problems that were refused, and problems without further solutions
    "wrong_solution": 0.1,  # of further solutions
}
SIGNS = {"Add": "+", "Subtract": "-", "Multiply by": "*"}
_PROBLEM = re.compile(r"Start with (\d+)\. ((?:(?:Add|Subtract|Multiply by) \d+[,.] ?)+)What is")
_OPERATION = re.compile(r"(Add|Subtract|Multiply by) (\d+)")
_EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (-?\d+)")


def chance(kind, *parts):
    """Whether an error of a kind happens: always the same for the same parts."""
    digest = hashlib.sha256("/".join(map(str, (kind, *parts))).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48 < PLANTED[kind]


def draw(rng, length=4):
    start, value, operations = rng.randint(20, 60), 0, []
    value = start
    for _ in range(length):
        word = rng.choice(["Add", "Subtract", "Multiply by"])
        number = rng.randint(2, 4) if word == "Multiply by" else rng.randint(3, 19)
        if word == "Subtract" and value <= number:
            word = "Add"
        value = compute(value, SIGNS[word], number)
        operations.append((word, number))
    return start, operations


def compute(value, sign, number):
    return {"+": value + number, "-": value - number, "*": value * number}[sign]


def ask(start, operations):
    return (
        f"Start with {start}. {', '.join(f'{w} {n}' for w, n in operations)}. What is the result?"
    )


def read(problem):
    match = _PROBLEM.search(problem)
    return int(match[1]), [(word, int(n)) for word, n in _OPERATION.findall(match[2])]


def solve(start, operations, wrong_step=None, change=1):
    """Steps and answer; with an error in one step (from 1) that the later ones carry on."""
    value, steps = start, []
    for number, (word, operand) in enumerate(operations, start=1):
        result = compute(value, SIGNS[word], operand) + (change if number == wrong_step else 0)
        steps.append(f"{value} {SIGNS[word]} {operand} = {result}")
        value = result
    return [*steps, f"The answer is \\boxed{{{value}}}."], str(value)


def write_seeds(path: Path, count, seed=1, length=4):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        start, operations = draw(rng, length)
        steps, answer = solve(start, operations)
        rows.append({"id": f"toy-{number}", "problem": ask(start, operations),
                     "solution": "\n".join(steps), "answer": answer})  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def planted_step(problem, seed, sample):
    """The wrong step of the student's attempt with this seed; None: it is right."""
    if not chance("student", problem, seed, sample):
        return None
    return random.Random(f"{problem}/{seed}/{sample}").randint(1, len(read(problem)[1]))


def first_wrong(steps):
    for number, step in enumerate(steps, start=1):
        if (match := _EQUATION.search(step)) and compute(
            int(match[1]), match[2], int(match[3])
        ) != int(match[4]):
            return number
    return None


def reply(prompt, seed=None, sample=0):
    """What the model says to a prompt of any method."""
    problem = f"{_PROBLEM.search(prompt)[0]} the result?"

    def asks(*phrases):
        return any(phrase in prompt for phrase in phrases)

    if asks("Solve the following problem", "请解答下面的题目"):
        start, operations = read(problem)
        return "\n".join(solve(start, operations, planted_step(problem, seed, sample))[0])
    if chance("form", prompt):
        return "I would rather talk about the weather."
    if asks("You are a teacher", "你是一位数学老师"):
        return _judge(problem, re.findall(r"^\[\d+\] (.*)$", prompt, re.MULTILINE))
    if asks("You check the work"):
        solution = prompt.split("Solution:\n")[1].split("\n\nGive your")[0].split("\n")
        return f"Check: {'wrong' if first_wrong(solution) else 'correct'}\nReason: I computed it."
    if asks("make two new problems", "编写两道新题"):
        return _expand(problem)
    if asks("Write two more", "请再写出两份解答"):
        return _diversify(problem)
    return "Place: 1\nSlip: Let us already use " + solve(*read(problem))[0][2]


def _judge(problem, steps):
    wrong = first_wrong(steps)
    if wrong is None or chance("blind", problem, *steps):
        return "**Check:** correct\nReason: every step holds."
    start, operations = read(problem)
    right, _ = solve(start, operations)
    return (
        f"Check: wrong\nStep: {wrong}\nQuote: {steps[wrong - 1]}\n"
        f"Error: the computation is off.\nCorrection:\n" + "\n".join(right[wrong - 1 :])
    )


def new_pairs(problem):
    """(problem, wrong, refused) of both new problems."""
    for number in (1, 2):
        start, operations = draw(random.Random(f"{problem}/{number}"), 5)
        text = ask(start, operations)
        yield text, chance("wrong_pair", text), chance("refused", text)


def _expand(problem):
    parts = [f"Statement: {problem.replace('What is the result?', 'That gives a number.')}"]
    for number, (text, wrong, refused) in enumerate(new_pairs(problem), start=1):
        start, operations = read(text)
        steps = solve(start, operations, 2 if wrong else None)[0]
        parts.append(f"Problem {number}: {text}\nSolution {number}:\n" + "\n".join(steps))
        parts.append(f"Check {number}: {'refuse' if refused else 'accept'}\nReason {number}: So.")
    return "\n".join(parts)


def wrong_solutions(problem):
    return [chance("wrong_solution", problem, number) for number in (1, 2)]


def _diversify(problem):
    if chance("refused", problem):
        return "Response: refuse\nReason: there is one way only."
    start, operations = read(problem)
    parts = ["Response: accept"]
    for number, wrong in enumerate(wrong_solutions(problem), start=1):
        steps, _ = solve(start, operations, 1 if wrong else None)
        words = ["Now", "we", "see"] if number == 1 else ["From", "this", "number", "follows"]
        lines = [f"{' '.join(words)}: {step}" for step in steps[:-1]]
        parts.append(f"Solution {number}:\n" + "\n".join([*lines, steps[-1]]))
    return "\n".join(parts)
