"""Exports of what was trained, as files that a page loads, so that a reader can try it without a server."""
