"""Where secrets come from: one module a provider."""
