"""Many contexts in one pass: stretches of sequences, halves of sets, what their contexts have seen, and fast sums."""
