"""Schedules, samplers, guidance, masks, noise and the step engine; knows nothing of Triton."""
