"""Good and bad objects: one table, put to local admission and to a real API server."""
