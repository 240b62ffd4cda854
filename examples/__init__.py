"""Services as one would write them, each with a pool that says what happens inside it."""
