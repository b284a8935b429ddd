"""The gap report: `gap.json` as Markdown, and as one HTML page that loads nothing from elsewhere."""
