"""The net-gain arithmetic of MathGPT-8B (arXiv 2501.14002): CPT or SFT for the same problems?

A model that saw a hundredth of the problems in fine-tuning knows how to answer and little more;
what is above its score was learnt from the problems.
"""

from dataclasses import dataclass

PUBLISHED = {
    "Base1": 19.11,
    "Base1-1%SFT": 23.73,
    "Base1-SFT": 35.62,
    "Base2": 39.50,
    "Base2-1%SFT": 43.54,
}
"""Averages over GSM8K, MATH, GAOKAO and ZHONGKAO, by group."""


@dataclass(frozen=True)
class NetGain:
    """Gains over the control, and SFT's as a share of CPT's."""

    sft: float
    cpt: float
    share: float


def net_gain(*, sft: float, cpt: float, control: float) -> NetGain:
    """Of Base1-SFT, Base2-1%SFT and Base1-1%SFT. ZeroDivisionError where CPT gained nothing."""
    return NetGain(sft - control, cpt - control, (sft - control) / (cpt - control))
