"""Self-contained HTML pages from templates (templates/), styles and scripts (static/)."""
