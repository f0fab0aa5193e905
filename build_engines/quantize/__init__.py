"""Quantisation of a UNet, calibrated on inputs of real sampling runs and accepted by its pictures.

:mod:`~build_engines.quantize.workload` makes the requests, :mod:`~build_engines.quantize.runs`
runs them in this process, :mod:`~build_engines.quantize.calibration` keeps a sample of the UNet's
inputs, :mod:`~build_engines.quantize.toolkit` quantises the graph with NVIDIA ModelOpt,
:mod:`~build_engines.quantize.compare` runs further requests with both UNets, and
:mod:`~build_engines.quantize.report` reports the result. :class:`Quantizer` runs all steps.
"""

from build_engines.quantize.quantizer import Quantizer, open_quantizer

__all__ = ["Quantizer", "open_quantizer"]
