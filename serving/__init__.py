"""Finds or starts tritonserver with the project's models, supervises it, and stops it."""
