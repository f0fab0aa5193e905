"""Tests of quantisation; those that need NVIDIA ModelOpt are marked so."""
