"""What the compiled code of several folders shares."""
