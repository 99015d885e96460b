"""Where bundles come from: one module a store."""
