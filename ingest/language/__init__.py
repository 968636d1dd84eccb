"""Captions, language models and text encoders, each behind a small protocol, and their prompts and word lists."""
