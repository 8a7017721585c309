"""Plans as pages of HTML: one file, which loads and sends nothing."""
