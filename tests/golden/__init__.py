"""Golden cases: what the reference made, and whether this project makes the same."""
