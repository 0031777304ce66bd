"""Collaborative filtering without gradient steps, and propagation over graphs: shared by teachers and students."""
