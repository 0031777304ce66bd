"""Many contexts in one pass: stretches of sequences, halves of sets, what they have seen, and fast sums."""
