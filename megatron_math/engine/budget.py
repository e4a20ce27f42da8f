"""What was spent, what calls in flight may still cost, and whether there is room for more."""

from dataclasses import dataclass, fields

from megatron_math.engine.config import BudgetConfig
from megatron_math.engine.interface import Answer, Request

TURN_BYTES = 16  # what a chat template puts around a turn, at most about so many tokens


@dataclass
class Cost:
    """Calls and tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0

    def add(self, other: "Cost", sign: int = 1) -> None:
        for field in fields(self):
            value = getattr(self, field.name) + sign * getattr(other, field.name)
            setattr(self, field.name, value)


class Budget:
    """Holds back the most that each call in flight can cost, so that the limits are kept.

    A token is at least a byte of the prompt; second tries are counted when they are known.
    """

    def __init__(self, config: BudgetConfig, spent: Cost) -> None:
        self.config = config
        self.spent = spent
        self._held = Cost()

    def admits(self, request: Request, calls: int) -> bool:
        """Whether `request` can be afforded whatever becomes of it and of what is in flight."""
        total = Cost()
        for cost in (self.spent, self._held, most_of(request, calls)):
            total.add(cost)
        config = self.config
        return (
            (config.calls is None or total.calls <= config.calls)
            and (config.tokens is None or total.prompt_tokens + total.new_tokens <= config.tokens)
            and (config.money is None or self._price(total) <= config.money)
        )

    def hold(self, request: Request, calls: int) -> None:
        self._held.add(most_of(request, calls))

    def release(self, request: Request, calls: int) -> None:
        """Give back what was held for a call whose answer nobody waits for any more."""
        self._held.add(most_of(request, calls), -1)

    def charge(self, request: Request, calls: int, answer: Answer) -> None:
        """Put what an answer did cost in the place of what was held for it."""
        self.release(request, calls)
        self.spent.add(Cost(answer.calls, answer.prompt_tokens, answer.new_tokens))

    def report(self) -> str:
        """Such as '1,204 calls, 88,120 + 240,771 tokens, 3.4100 in money'."""
        spent = self.spent
        text = f"{spent.calls:,} calls, {spent.prompt_tokens:,} + {spent.new_tokens:,} tokens"
        has_price = self.config.price_in or self.config.price_out
        return f"{text}, {self._price(spent):.4f} in money" if has_price else text

    def limits(self) -> str:
        """Such as 'calls 2,000, money 20'."""
        chosen = {name: getattr(self.config, name) for name in ("calls", "tokens", "money")}
        return ", ".join(f"{name} {value:,}" for name, value in chosen.items() if value is not None)

    def _price(self, cost: Cost) -> float:
        config = self.config
        return (cost.prompt_tokens * config.price_in + cost.new_tokens * config.price_out) / 1e6


def most_of(request: Request, calls: int) -> Cost:
    """The most that `request` costs in so many calls, none of which fails."""
    texts = request.texts()
    prompt_tokens = sum(len(text.encode("utf-8")) + TURN_BYTES for text in texts)
    return Cost(calls, calls * prompt_tokens, request.n * request.max_new_tokens)
