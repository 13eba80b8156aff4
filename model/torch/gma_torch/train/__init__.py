"""Training from text files: `gma-train`."""
