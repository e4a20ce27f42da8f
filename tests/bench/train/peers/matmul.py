"""No model at all: products of SIDE x SIDE by torch.mm until a step's FLOPs are spent."""

import torch
from case import given, say

SIDE = 2048


def main() -> None:
    case, _ = given()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.dtype]
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    result = torch.empty(SIDE, SIDE, dtype=dtype)
    num_products = max(1, round(case.settings["flops"] / (2 * SIDE**3)))
    for step in range(1, case.steps + 1):
        for _ in range(num_products):
            torch.mm(a, b, out=result)
        say(step, 0.0)


if __name__ == "__main__":
    main()
