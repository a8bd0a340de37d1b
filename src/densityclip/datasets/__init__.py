"""Archives and tables to index rows."""
