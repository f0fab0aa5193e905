"""The integrals behind solvers' coefficients, against quadrature."""

from __future__ import annotations

import math

import pytest
from numpy.polynomial import Polynomial
from scipy.integrate import quad

from sampling.samplers.integrals import integral, lagrange_basis, phi


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("z", [-30.0, -2.0, -1.0, -0.999, -1e-3, -1e-12, 0.0, 1e-9, 0.5, 1.0, 6.0])
def test_phi_is_its_integral(order: int, z: float) -> None:
    def integrand(theta: float) -> float:
        return math.exp((1 - theta) * z) * theta ** (order - 1) / math.factorial(order - 1)

    assert phi(order, z) == pytest.approx(quad(integrand, 0, 1, epsabs=0)[0], rel=1e-9)


@pytest.mark.parametrize("nodes", [[0.3], [1.0, -2.0], [0.0, 0.5, 3.0], [4.0, 1.0, 0.0, -0.5]])
def test_lagrange_basis_is_one_at_its_node_and_zero_at_the_others(nodes: list[float]) -> None:
    for j, basis in enumerate(lagrange_basis(nodes)):
        expected = [float(j == k) for k in range(len(nodes))]
        assert [float(basis(node)) for node in nodes] == pytest.approx(expected, abs=1e-12)


def test_integral_of_a_polynomial() -> None:
    assert integral(Polynomial([1.0, 2.0, 3.0]), 2.0) == pytest.approx(2 + 4 + 8)
