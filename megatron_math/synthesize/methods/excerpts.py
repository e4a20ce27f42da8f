"""Problems after excerpts of texts: one request an item; the code of tool items is run."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from megatron_math.answers.extract import extract_answer
from megatron_math.base.files import sha256_json
from megatron_math.synthesize.excerpt_config import TOOL, ExcerptsConfig, SandboxConfig
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.source_texts import Excerpt
from megatron_math.synthesize.tags import Unusable, final_answer, read_tags
from megatron_math.synthesize.tool_items import Runner, answer_is_printed, read_tool_solution
from megatron_math.synthesize.verdicts.asked import Checks
from megatron_math.synthesize.work import Candidate, Outcome, Reject, Seed, Voice, Work, whole

PROMPT = "excerpts"
TAGS = ("Problem", "Solution")
# A problem that can be understood only with the excerpt, or a picture, before one's eyes.
_NOT_ALONE = re.compile(
    r"\b(?:the|this|given)\s+(?:excerpt|passage\s+above|text\s+above)\b"
    r"|\b(?:figure|diagram|picture|graph|table)\s+(?:above|below)\b"
    r"|\bas\s+shown\s+in\s+the\s+(?:figure|diagram|picture)\b|\\includegraphics|!\[[^\]]*\]\("
    r"|(?:上述|上面的|该)(?:摘录|文本|文章)|如(?:上|下)?图",
    re.IGNORECASE,
)


class Excerpts:
    """One request an item, one candidate. A context, for the sandbox."""

    prompt = None
    unique: Literal["problem", "both"] = "problem"

    def __init__(
        self,
        config: ExcerptsConfig,
        voices: Mapping[str, Voice],
        prompts: Prompts,
        checks: Checks,
        road_seed: int,
    ) -> None:
        self._voice = voices["engine"]
        self._prompts = prompts
        self._checks = checks
        self._needs_answer = config.needs_answer
        self._runner = Runner(config.sandbox or SandboxConfig())

    def __enter__(self) -> "Excerpts":
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.__exit__(*error)

    def work(self, seed: Seed) -> Work:
        assert isinstance(seed, Excerpt)
        name = f"{PROMPT}.{seed.prompt}"
        values = {"excerpt": seed.problem}
        if seed.example is not None:
            values |= {"example_problem": seed.example[0], "example_solution": seed.example[1]}
        # It ends with a line's end, so that prompt and answer are a text as they are.
        prompt = self._prompts.render(name, **values) + "\n"
        ask = self._voice.ask(prompt, seed.id, PROMPT)
        about: dict[str, Any] = {
            "stage": seed.prompt,
            "excerpt": dict(seed.about or {}),
            "seed": ask.request.seed,
            "prompt_sha256": self._prompts.sha256(name),
            "request_sha256": sha256_json(prompt),
        }
        [answer] = yield [ask]
        raw = answer.generations[0].text if answer.generations else ""
        try:
            candidate = self._candidate(whole(answer).text, seed.prompt == TOOL, about)
        except Unusable as fault:
            return Outcome(rejects=[Reject(fault.reason, fault.detail, raw, about)])
        candidate.asked = prompt
        yield from self._checks.work(candidate, None, seed.id)
        return Outcome([candidate])

    def _candidate(self, raw: str, is_tool: bool, about: dict[str, Any]) -> Candidate:
        """Raises Unusable."""
        tags = read_tags(raw, TAGS)
        problem, solution = tags["Problem"], tags["Solution"]
        if match := _NOT_ALONE.search(problem):
            raise Unusable("the problem does not stand alone", match[0])
        candidate = Candidate(problem, solution, None, raw, meta=about)
        if is_tool:
            self._run(candidate)
        text = candidate.solution if candidate.checked is None else candidate.checked
        if self._needs_answer:
            candidate.answer = final_answer(text)
        else:
            candidate.answer = extract_answer(text, rules=("boxed", "stated")).answer
        if is_tool and candidate.verdicts["runs"]:
            output = candidate.meta.pop("printed")
            candidate.verdicts["output"] = answer_is_printed(output, candidate.answer)
        return candidate

    def _run(self, candidate: Candidate) -> None:
        """Run the code of a solution and put the output behind it. Raises Unusable."""
        parts = read_tool_solution(candidate.solution)
        result = self._runner.run(parts.code)
        candidate.checked = parts.prose
        candidate.meta = candidate.meta | {"outcome": result.outcome}
        candidate.verdicts["runs"] = result.outcome == "ok"
        if result.outcome == "ok":
            output = self._runner.output(result)
            candidate.solution = parts.with_output(output)
            candidate.meta["printed"] = output
