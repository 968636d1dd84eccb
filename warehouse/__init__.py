"""The warehouse: one DuckDB file, described by schema.sql, and the activation files beside it."""
