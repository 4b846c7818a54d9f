"""How fast devices that talk at the same time are heard (Shannon's capacity with the others as noise)."""

import numpy as np


def uplink_rates(
    power: np.ndarray,
    distance: np.ndarray,
    channel: np.ndarray,
    sending: np.ndarray,
    *,
    bandwidth: float = 1e6,
    noise: float = 1e-9,
    path_loss_exponent: float = 3.0,
) -> np.ndarray:
    """(devices,), bits per second: W log₂(1 + p d⁻ᵉ / (noise + Σ p d⁻ᵉ of the others that send on the channel now)).

    Args:
        power: (devices,), watts; distance: metres; channel: numbers; sending: true for those that send.
        bandwidth: W, hertz; noise: watts.
    """
    heard = power * distance**-path_loss_exponent
    same = (channel[:, None] == channel) & sending & ~np.eye(len(power), dtype=bool)
    # Of a whisper beside a shout 1 + x would be 1: nothing would ever arrive.
    return bandwidth * np.log1p(heard / (noise + same @ heard)) / np.log(2)
