"""Records of finished runs, where they come from, the papers' numbers, and what the one says of the other. Nothing here
imports torch, so that pages of results open in seconds."""
