"""Engine methods, one file each."""
