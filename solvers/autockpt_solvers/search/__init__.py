"""How a method is asked: the backward's order, levels of memory, filled up to the budget."""
