"""Several servers as one service: their balance, and what clients see when some are lost."""
