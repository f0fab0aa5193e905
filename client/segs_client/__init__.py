"""Client of SEGS Detailer."""
