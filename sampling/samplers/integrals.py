"""Integrals for the solvers' coefficients, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

from numpy.polynomial import Polynomial

_SERIES_TERMS = 20


def phi(order: int, z: float) -> float:
    """φₖ(z) = ∫₀¹ e^((1−θ)z) θ^(k−1)/(k−1)! dθ, the functions of exponential integrators
    (Hochbruck and Ostermann, Acta Numerica 2010, equation 2.10).

    φ₀ = eᶻ, φₖ₊₁ = (φₖ − 1/k!)/z; near 0, where that cancels, the power series.

    Example:
        >>> phi(1, 2.0) == math.expm1(2.0) / 2.0, phi(2, 0.0)
        (True, 0.5)
    """
    if order == 1:
        return math.expm1(z) / z if z else 1.0
    if abs(z) < 1:
        return math.fsum(z**n / math.factorial(n + order) for n in range(_SERIES_TERMS))
    value = math.exp(z)
    for k in range(order):
        value = (value - 1 / math.factorial(k)) / z
    return value


def integral(polynomial: Polynomial, end: float) -> float:
    """∫₀^end of a polynomial."""
    return math.fsum(float(c) * end ** (k + 1) / (k + 1) for k, c in enumerate(polynomial.coef))


def lagrange_basis(nodes: Sequence[float]) -> list[Polynomial]:
    """For each node the polynomial that is 1 there and 0 at the others.

    Example:
        >>> [float(line(0.5)) for line in lagrange_basis([0.0, 1.0])]
        [0.5, 0.5]
    """
    basis = []
    for j, node in enumerate(nodes):
        line = Polynomial([1.0])
        for k, other in enumerate(nodes):
            if k != j:
                line = line * Polynomial([-other, 1.0]) / (node - other)
        basis.append(line)
    return basis
