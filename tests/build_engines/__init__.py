"""Tests of build_engines."""
