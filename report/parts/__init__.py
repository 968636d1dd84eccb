"""What draws: cards of clips, SVG, charts, texts, footers, the search index."""
