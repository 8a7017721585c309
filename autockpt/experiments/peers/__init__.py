"""Other ways to train in less memory, measured beside autockpt at the same peak."""
