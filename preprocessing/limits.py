"""The limits that input is checked against before any work is done for it."""

MAX_IMAGE_PIXELS = 64_000_000
"""Most pixels of a picture."""

MAX_SIDE_PX = 16_384
"""Longest side of a picture."""

MAX_SAMPLED_PIXELS = 2048 * 2048
"""Most pixels that one SEG may be sampled at."""

MAX_REQUEST_SAMPLED_PIXELS = 256_000_000
"""Most pixels that all SEGs of a request may be sampled at together."""

MAX_SEGS = 1024
"""Most SEGs in a request."""

MIN_SAMPLED_SIDE_PX = 8
"""Shortest side that the VAE can encode."""
