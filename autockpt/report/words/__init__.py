"""What is said of a plan, wherever it is shown: headlines, sentences, names."""
