"""The parts of the report in a terminal: the answer, the step over time, what is at the peak."""
