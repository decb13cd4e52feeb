"""Real servers for the tests, each a child process with its own port and data: docs/TESTING.md."""
