"""Query engines and retrievers: many queries at once, and concurrent single ones joined."""
