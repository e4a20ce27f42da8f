"""The papers' protocols: what they ask, and the number they make of the scores."""

import pytest

from megatron_math.base.errors import UserError
from megatron_math.benchmarks.protocol import load_protocol, protocol_names, summarize

# papers.md 2.10: JiuZhang3.0-7B and -8B on the six sets of the table, and the average printed.
PUBLISHED = {
    "JiuZhang3.0-7B": ([88.6, 52.8, 90.4, 92.6, 97.3, 51.0], 78.8),
    "JiuZhang3.0-8B": ([88.6, 51.0, 89.4, 92.6, 97.1, 50.9], 78.3),
    "JiuZhang3.0-8x7B": ([89.8, 53.8, 90.2, 93.1, 96.7, 52.3], 79.3),
    "GPT-4": ([92.2, 65.4, 92.9, 94.3, 96.6, 53.6], 82.5),
}


def test_every_protocol_loads_and_its_sets_can_be_asked() -> None:
    assert protocol_names() == ["jiuzhang3", "jiuzhang3_base", "jiuzhang3_tool", "mathgpt8b"]
    for name in protocol_names():
        protocol = load_protocol(name)
        assert protocol.name == name
        for benchmark, shots, _ in protocol.asks():
            config = protocol.config_of(benchmark)
            assert len(config.examples) >= shots
            assert config.max_new_tokens == protocol.max_new_tokens


@pytest.mark.parametrize("model", PUBLISHED)
def test_jiuzhang3s_averages_are_reproduced(model: str) -> None:
    scores, average = PUBLISHED[model]
    protocol = load_protocol("jiuzhang3")
    given = {(name, 0): score for name, score in zip(protocol.mean_of, scores, strict=True)}
    summary = summarize(protocol, given)
    assert summary.mean == pytest.approx(average, abs=0.051)
    assert "aqua with 5 examples" in summary.missing


def test_mathgpt8b_takes_the_higher_and_says_so() -> None:
    protocol = load_protocol("mathgpt8b")
    given = {(name, shots): 10.0 * number + shots
             for number, name in enumerate(protocol.mean_of) for shots in (0, 5)}  # fmt: skip
    given["math", 0] = 99.0
    summary = summarize(protocol, given)
    assert summary.taken == {"gsm8k": 5, "math": 99, "gaokao": 25, "zhongkao": 35}
    assert summary.of["math"] == {0: 99, 5: 15}, "both scores are kept"
    assert summary.mean == (5 + 99 + 25 + 35) / 4
    assert "higher of zero-shot and few-shot" in summary.says
    assert not summary.missing


def test_no_number_is_made_of_fewer_sets() -> None:
    protocol = load_protocol("mathgpt8b")
    given = {(name, shots): 50.0 for name in ("gsm8k", "math", "gaokao") for shots in (0, 5)}
    given["zhongkao", 0] = 90.0
    summary = summarize(protocol, given)
    assert summary.mean is None
    assert summary.missing == ["zhongkao with 5 examples"]
    assert summary.to_json()["taken"] == {"gsm8k": 50, "math": 50, "gaokao": 50}


def test_unknown_protocols_and_wrong_files_are_explained(tmp_path) -> None:
    with pytest.raises(UserError, match="known are jiuzhang3, jiuzhang3_base"):
        load_protocol("jiuzhang4")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nversion: 1\nsays: s\nasked: [{benchmark: gsm8k, shots: [0, 5]}]\n"
        "take: only\nmean_of: [gsm8k]\n"
    )
    with pytest.raises(UserError, match="take the highest"):
        load_protocol(str(path))
