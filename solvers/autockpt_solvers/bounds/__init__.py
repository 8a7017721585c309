"""Lower bounds: what no plan can do, and how far an answer is from it."""
