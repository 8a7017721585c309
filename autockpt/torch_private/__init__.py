"""Every private name of torch that autockpt uses."""
