"""Expensive, resumable stages that write the warehouse."""
