"""The options that commands share, and what is checked of them before anything is imported."""
