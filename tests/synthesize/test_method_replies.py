"""What each method makes of one reply: candidates, or a reject with its reason."""

import pytest
import toy_arithmetic as toy
from method_roads import EXTRA, engine_section

from megatron_math.engine.interface import Answer, Generation
from megatron_math.synthesize.by_method import METHODS, _checks
from megatron_math.synthesize.config import parse_method
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.work import Seed, Voice, side_by_side

PROBLEM = "Start with 20. Add 5, Subtract 3. What is the result?"
STEPS = ["20 + 5 = 25", "25 - 3 = 22", "The answer is \\boxed{22}."]
WRONG = ["20 + 5 = 25", "25 - 3 = 21", "The answer is \\boxed{21}."]
SEED = Seed("s", PROBLEM, "\n".join(STEPS), "22", (("them", "\n".join(WRONG)),))
FIXED = "Correction:\n25 - 3 = 22\nThe answer is \\boxed{22}."


def outcome(method, *answers, seed=SEED, **more):
    """The outcome when each turn is answered with the next of `answers`, texts or Answers."""
    roles = {"tutorship": ("teacher",)}.get(method, ("engine",))
    section = {"method": method, "seeds": {"path": "x"}, **EXTRA[method]}
    section |= {role: engine_section("http://x/v1", role, method) for role in roles}
    if method == "tutorship":
        section["seeds"] = {"path": "x", "attempts": ["them"]}
    config = parse_method(section | more)
    voices = {role: Voice(role, own, 7) for role, own in config.engines().items()}
    prompts = Prompts(config.language)
    checks = _checks(config, voices, prompts)
    work = METHODS[method](config, voices, prompts, checks, 7).work(seed)
    waiting = list(answers)
    try:
        asks = next(work)
        while True:
            replies = []
            for ask in asks:
                given = waiting.pop(0)
                if isinstance(given, str):
                    given = Answer((Generation(given, "stop", 1),) * ask.request.n)
                replies.append(given)
            asks = work.send(replies)
    except StopIteration as end:
        assert not waiting, "asked less than expected"
        return end.value


def judged(step="2", quote="25 - 3 = 21", rest=FIXED):
    return f"Check: wrong\nStep: {step}\nQuote: {quote}\nError: no.\n{rest}"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (judged("4"), "'Step:' is no step of the attempt"),
        (judged("0"), "'Step:' is no step of the attempt"),
        (judged("two"), "'Step:' is no step of the attempt"),
        (judged("\u00b2"), "'Step:' is no step of the attempt"),
        (judged(quote="20 + 5 = 25"), "the quote is not the step"),
        (judged(quote="25"), "the quote is not the step"),
        (judged(quote="..."), "the quote is not the step"),
        (judged(rest="Correction: it is 22"), "no final answer"),
        (judged(rest=""), "no 'Correction:'"),
        ("Check: maybe\nReason: x", "'Check:' is none of correct, wrong"),
        ("Check: correct", "no 'Reason:'"),
        ("Well, the second step is wrong.", "does not begin with 'Check:'"),
        (Answer((Generation(judged(), "length", 9),)), "cut off"),
        (Answer(failure="status 400"), "no answer"),
    ],
)
def test_judgements_that_cannot_be_used(reply, reason):
    [reject] = outcome("tutorship", reply).rejects
    assert reject.reason == reason
    assert reject.about["attempt"] == "\n".join(WRONG)
    assert reject.about["attempt_right"] is False


@pytest.mark.parametrize(
    ("step", "quote"),
    [("2", "25 - 3 = 21"), ("[2]", '"25 - 3 = 21"'), ("2.", "  25 -  3 = 21 ."), ("2", "3 = 21")],
)
def test_judgements_that_can(step, quote):
    [candidate] = outcome("tutorship", judged(step, quote)).candidates
    assert candidate.meta["step"] == 2
    assert candidate.answer == "22"
    assert candidate.verdicts == {
        "parsed": True, "judgement": True, "reference": True, "symbolic": True,
        "substitution": None,
    }  # fmt: skip
    assert candidate.solution == (
        "\n".join(WRONG) + "\n\nCheck: wrong\nStep 2: 25 - 3 = 21\nError: no.\n" + FIXED
    )


def test_a_wrong_correction_is_a_candidate_with_its_verdicts():
    wrong = "Correction:\n25 - 3 = 23\nThe answer is \\boxed{23}."
    [candidate] = outcome("tutorship", judged(rest=wrong)).candidates
    assert candidate.verdicts["reference"] is False
    assert candidate.verdicts["symbolic"] is False


def test_a_right_attempt_costs_nothing_outside_its_share():
    right = Seed("s", PROBLEM, None, "22", (("them", "\n".join(STEPS)),))
    [reject] = outcome("tutorship", seed=right, judged_correct=0.0).rejects
    assert reject.reason == "right attempt outside the share"
    reply = "Check: correct\nReason: all hold."
    [candidate] = outcome("tutorship", reply, seed=right, judged_correct=1.0).candidates
    assert candidate.solution == "\n".join(STEPS) + "\n\nCheck: correct\nall hold."
    assert candidate.verdicts["judgement"] is True


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Place: 1\nSlip: 25 - 3 = 22\nand more", "the slip is not one line without [back]"),
        ("Place: 1\nSlip: 25 - 3 = 22 [back]", "the slip is not one line without [back]"),
        ("Place: 9\nSlip: 25 - 3 = 22", "'Place:' is no step"),
        ("Place: 2\nSlip: 25 - 3 = 22", "the slip is the right step"),
        ("Place: 1\nSlip: The answer is 22.", "the slip states the final answer"),
        ("Slip: 25 - 3 = 22", "no 'Place:'"),
    ],
)
def test_slips_that_cannot_be_used(reply, reason):
    [reject] = outcome("retrospective", reply, steps_needed=2).rejects
    assert reject.reason == reason


def test_a_slip_in_a_model_s_own_words():
    [candidate] = outcome("retrospective", "Place: 1\nSlip: minus 3", steps_needed=2).candidates
    assert candidate.solution == "minus 3 [back]\n" + "\n".join(STEPS)
    assert candidate.verdicts["deletes_back"] is True


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        (None, "seed without a solution"),
        ("One.\nTwo.\nThe answer is 2.", "too few steps"),
        ("One [back]\nTwo.\nThree.\nFour.", "the solution holds [back]"),
        ("--\n--\n--\nA 12\n", "no step can be put early"),
    ],
)
def test_solutions_that_cannot_be_spliced(solution, reason):
    seed = Seed("s", PROBLEM, solution, "2")
    [reject] = outcome("retrospective", seed=seed, engine=None, steps_needed=3).rejects
    assert reject.reason == reason


def test_expansion():
    reply = toy.reply(f"make two new problems\n{PROBLEM}")
    found = outcome("expansion", reply)
    assert [candidate.verdicts["different"] for candidate in found.candidates] == [True, True]
    first = found.candidates[0]
    again = outcome("expansion", reply.replace(first.problem, f" {PROBLEM.upper()} "))
    assert [candidate.verdicts["different"] for candidate in again.candidates] == [False, True]
    no_answer = outcome("expansion", reply.replace("The answer is", "It is"))
    assert len(no_answer.candidates) == 2, "a box is enough"
    no_box = outcome("expansion", reply.replace("The answer is \\boxed", "It is "))
    assert [reject.reason for reject in no_box.rejects] == ["no final answer"] * 2
    assert no_box.rejects[0].about["problem"] == first.problem
    [reject] = outcome("expansion", seed=Seed("s", PROBLEM)).rejects
    assert reject.reason == "seed without an answer"


def test_diversification():
    reply = toy.reply(f"Write two more solutions\n{PROBLEM}")
    assert len(outcome("diversification", reply).candidates) == 2
    same = "\n".join(STEPS)
    both = outcome("diversification", f"Response: accept\nSolution 1:\n{same}\nSolution 2: {same}")
    assert [c.verdicts["different"] for c in both.candidates] == [False, False]
    [reject] = outcome("diversification", "Response: refuse\nReason: no way.").rejects
    assert (reject.reason, reject.detail) == ("refused by the model", "no way.")
    half = outcome("diversification", f"Response: accept\nSolution 1: hm\nSolution 2: {same}")
    assert [reject.reason for reject in half.rejects] == ["no final answer"]
    assert len(half.candidates) == 1


def test_rejection_keeps_the_best():
    long = "20 + 2 = 22\n22 + 3 = 25\n25 - 3 = 22\nThe answer is \\boxed{22}."
    texts = [long, "\n".join(STEPS), "\n".join(WRONG), "no idea"]
    answer = Answer(tuple(Generation(text, "stop", 1) for text in texts))
    for best, first in (("fewest_steps", 1), ("most_steps", 0), ("shortest", 1), ("first", 0)):
        found = outcome("rejection", answer, best=best)
        right = [c for c in found.candidates if c.verdicts["reference"]]
        assert right[0].solution == texts[first]
        assert found.keep == 1
        assert right[0].meta["right_of"] == [2, 4]
        assert [c.verdicts["agreement"] for c in right] == [True, True]
        assert [reject.reason for reject in found.rejects] == ["no final answer"]


def test_works_side_by_side_share_their_turns():
    def work(turns):
        heard = []
        for turn in range(turns):
            heard += yield [turn] * 2
        return heard

    together = side_by_side([work(2), work(0), work(1)])
    assert next(together) == [0, 0, 0, 0]
    assert together.send(["a", "b", "c", "d"]) == [1, 1]
    with pytest.raises(StopIteration) as end:
        together.send(["e", "f"])
    assert end.value.value == [["a", "b", "e", "f"], [], ["c", "d"]]
