"""Raw files to a clean, split, fingerprinted data set, and the contexts drawn from it."""
