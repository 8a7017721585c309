"""Every private name of torch that autockpt uses; importing it checks that torch has them all."""

from autockpt.torch_private.needed import check_torch

# Before any module of this folder imports one of them.
check_torch()
