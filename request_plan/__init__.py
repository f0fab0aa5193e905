"""What a request is inside the server: its plan, the limits it keeps, how it is refused."""
