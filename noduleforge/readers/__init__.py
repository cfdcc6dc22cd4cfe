"""Reader studies in the browser: making one, serving it, and what readers' answers say."""
