"""The demo: a small trading process, a receiver of pages, and the story that the agent plays."""
