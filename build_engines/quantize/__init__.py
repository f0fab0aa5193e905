"""A quantised UNet: calibrated on the inputs of real sampling runs, accepted by what it draws.

:mod:`~build_engines.quantize.workload` makes the requests, :mod:`~build_engines.quantize.runs`
runs them in this process, :mod:`~build_engines.quantize.calibration` keeps a sample of the UNet's
inputs, :mod:`~build_engines.quantize.toolkit` has NVIDIA ModelOpt quantise the graph with them,
:mod:`~build_engines.quantize.compare` runs further requests with both UNets, and
:mod:`~build_engines.quantize.report` says what became of it. :class:`Quantizer` does all of it.
"""

from build_engines.quantize.quantizer import Quantizer, open_quantizer

__all__ = ["Quantizer", "open_quantizer"]
