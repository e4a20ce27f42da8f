"""Student's t distribution, which NumPy does not have."""

import math


def t_two_sided(t: float, degrees: float) -> float:
    """The probability of a t as far from 0 as this one, on either side."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def t_quantile(confidence: float, degrees: float) -> float:
    """The t between whose both signs lies a `confidence` of the distribution.

    By Newton's way from 0 on, which never steps over it: the probability falls ever slower.
    """
    log_peak = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    log_peak -= 0.5 * math.log(degrees * math.pi)
    t = 0.0
    for _ in range(100):
        density = math.exp(log_peak - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (t_two_sided(t, degrees) - (1 - confidence)) / (2 * density)
        t += step
        if step <= 1e-12 * t:
            break
    return t


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast
        return 1 - _incomplete_beta(1 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d or tiny)
            c = 1 + numerator / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a
