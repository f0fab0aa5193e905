"""``segs-detail batch``: many pictures, with a journal by which the next run continues."""
