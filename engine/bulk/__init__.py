"""Collections of photos: what goes in, what comes out, and what became of each."""
