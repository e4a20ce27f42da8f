"""The classifier: what is a feature, that order and company do not matter, that it learns."""

from pathlib import Path

import numpy as np
import pytest
from toy_web import gsm8k, math500, stacks, wikitext

from megatron_math.curate.recall.features import BagReader, Bags
from megatron_math.curate.recall.linear import Linear, TrainingTexts, probability


def bags_of(*texts: str, longest_run: int = 1, bits: int = 28) -> list[list[int]]:
    bags = BagReader(longest_run, bits).read(texts)
    return [b.tolist() for b in np.split(bags.features, bags.offsets[1:-1])]


@pytest.mark.parametrize(
    ("text", "same_words"),
    [
        ("The CAT sat.", "the cat, sat!"),
        ("In 1987 and 45", "in 2024 and 10"),
        ("设 函 数 x", "设函数x"),
        ("a=b+1", " a  = b\n+ 2 "),
        (r"\frac{1}{2}", r"\frac { 3 } { 4 }"),
    ],
)
def test_the_same_words(text: str, same_words: str) -> None:
    first, second = bags_of(text, same_words)
    assert first == second
    assert len(first) > 1


@pytest.mark.parametrize(
    ("text", "other"),
    [("12", "123"), ("frac", r"\frac"), ("ab", "ba"), ("a b", "ab"), ("=", "+"), ("é", "e")],
)
def test_other_words(text: str, other: str) -> None:
    first, second = bags_of(text, other)
    assert first != second


def test_runs_stay_inside_a_text_and_company_does_not_matter() -> None:
    texts = ["one two three four", "", "five", "one two", "!!!", "two three"]
    together = BagReader(3, 22).read(texts)
    assert together.num_words.tolist() == [4, 0, 1, 2, 0, 2]
    assert np.diff(together.offsets).tolist() == [4 + 3 + 2, 0, 1, 3, 0, 3]
    for text, bag in zip(texts, np.split(together.features, together.offsets[1:-1]), strict=True):
        assert BagReader(3, 22).read([text]).features.tolist() == bag.tolist()
    features = [set(b) for b in bags_of(*texts, longest_run=3)]
    assert features[3] < features[0]
    assert features[5] < features[0]


def test_hashes_spread(shared_data: Path) -> None:
    """Of 20,000 different words about as many meet in 2 ** 20 numbers as chance would have it."""
    words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}x"
             for n in range(17_576)]  # fmt: skip
    features = BagReader(1, 20).read([" ".join(words)]).features
    assert len(words) - len(np.unique(features)) == pytest.approx(17_576**2 / 2 / 2**20, rel=0.3)


def learn(
    good: list[str], bad: list[str], path: Path, seed: int = 0
) -> tuple[Linear, dict[str, float]]:
    with TrainingTexts(path, BagReader(3, 18)) as texts:
        texts.add(good, 1)
        texts.add(bad, 0)
        return texts.train(epochs=3, learning_rate=1.0, min_count=3, seed=seed)


@pytest.fixture(scope="module")
def corpora(shared_data: Path) -> dict[str, list[str]]:
    wiki = wikitext(shared_data, "valid")[:800]
    return {
        "gsm8k": gsm8k(shared_data, 0, 400),
        "math500": [f"{row['problem']}\n{row['solution']}" for row in math500(shared_data)],
        "stacks": [text[:3000] for text in stacks(shared_data)],
        "wikitext": wiki,
    }


def test_mathematics_is_told_from_general_text(
    corpora: dict[str, list[str]], tmp_path: Path
) -> None:
    names = ("gsm8k", "math500", "stacks")
    good = [text for name in names for text in corpora[name][::2]]
    linear, held_out = learn(good, corpora["wikitext"][::2], tmp_path / "training")
    assert min(held_out.values()) >= 0.95
    reader = linear.reader()
    told = {
        name: float((probability(linear.logits(reader.read(texts[1::2]))) > 0.5).mean())
        for name, texts in corpora.items()
    }
    print(told, held_out)
    assert min(told[name] for name in names) >= 0.97
    assert told["wikitext"] <= 0.02
    assert not list(tmp_path.iterdir()), "the file of features is removed"


def test_shuffled_labels_teach_nothing(corpora: dict[str, list[str]], tmp_path: Path) -> None:
    texts = corpora["gsm8k"] + corpora["wikitext"][:400]
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = [texts[n] for n in order]
    linear, _ = learn(shuffled[:300], shuffled[300:600], tmp_path / "training")
    rest = shuffled[600:]
    is_math = np.array([n < 400 for n in order[600:]])
    says_math = linear.logits(linear.reader().read(rest)) > 0
    right = (says_math == is_math).mean()
    print(right)
    assert 0.25 < right < 0.75, "right labels give 0.97 and more"


def test_a_seed_decides_every_bit(corpora: dict[str, list[str]], tmp_path: Path) -> None:
    good, bad = corpora["gsm8k"][:100], corpora["wikitext"][:100]
    first, again, other = (learn(good, bad, tmp_path / "t", seed)[0] for seed in (1, 1, 2))
    assert first.weights.tobytes() == again.weights.tobytes()
    assert first.weights.tobytes() != other.weights.tobytes()
    first.save(tmp_path / "classifier.npy")
    loaded = Linear.load(tmp_path / "classifier.npy")
    bags = loaded.reader().read(good)
    assert loaded.logits(bags).tobytes() == first.logits(bags).tobytes()
    assert loaded.longest_run == 3


def test_rare_features_weigh_nothing_and_no_words_have_the_bias(tmp_path: Path) -> None:
    good = [f"sum {chr(97 + n)}q" for n in range(20)]
    linear, _ = learn(good, ["tale told", "tale"] * 10, tmp_path / "t")
    reader = linear.reader()
    weights = [linear.weights[reader.read([word]).features[0]] for word in ("sum", "aq", "tale")]
    assert weights[0] > 0 == weights[1] > weights[2]
    logits = linear.logits(reader.read(["", "sum", "", "..."]))
    assert logits[[0, 2, 3]].tolist() == [np.float32(linear.bias)] * 3
    assert logits[1] > logits[0]


def test_no_texts() -> None:
    bags = BagReader(2, 12).read([])
    assert isinstance(bags, Bags)
    assert bags.offsets.tolist() == [0]
    assert Linear(np.zeros(1 << 12, np.float32), 0.0, 2).logits(bags).tolist() == []
