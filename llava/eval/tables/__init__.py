"""What was measured as Markdown, CSV and plots."""
