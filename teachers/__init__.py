"""Teachers: language-model recommenders, collaborative-filtering members, and their fusion."""
