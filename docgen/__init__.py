"""Generates the references from the code: ``python -m docgen``."""
