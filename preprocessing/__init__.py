"""Pure array functions around the sampling: decode, crop, resize, masks, paste; without torch."""
