"""Side-by-side runs of the evaluator against other libraries, in environments of their own."""
