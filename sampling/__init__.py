"""Schedules, samplers, guidance, masks, noise and the step engine; independent of Triton."""
