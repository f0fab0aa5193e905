"""A request inside the server: its plan, its limits and its refusals."""
