"""The face: read-only HTTP, a status page, and the admin socket for everything that changes."""
