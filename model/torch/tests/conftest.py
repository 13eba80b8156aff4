"""One thread: the machine is shared, and results must not depend on the thread count."""

import torch

torch.set_num_threads(1)
