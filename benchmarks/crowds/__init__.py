"""Crowds of callers against one server: some leave, some err, some send slow pictures.

``python -m benchmarks.crowds``; a short form is in ``make test-all``.
"""
