"""The one error that ends `gma-train` with a clear line."""


class TrainError(ValueError):
    """Something the user can put right; the message says what."""
