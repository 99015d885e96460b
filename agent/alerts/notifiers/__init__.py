"""The services that wake a person: one module a service, each a payload builder and a thin send."""
