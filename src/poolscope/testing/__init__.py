"""What helps to test code that uses a connection pool."""
