"""What a plan chose, what the other choice costs, and how near plain checkpointing comes."""
