"""The numbers of rounds and draws, checked before torch is there."""

#: Below it the differences of losses over the temperature are beyond floating point.
LEAST_TEMPERATURE = 1e-6


def check_draw(rate: float, seed: int, temperature: float, group_size: int) -> None:
    """Raises ValueError for numbers out of range."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate: got {rate}, accepted are shares above 0 and up to 1.")
    if not temperature >= LEAST_TEMPERATURE:
        raise ValueError(f"temperature: got {temperature}, accepted are numbers from {LEAST_TEMPERATURE}.")
    if group_size < 1:
        raise ValueError(f"group_size: got {group_size}, accepted are whole numbers from 1.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, accepted are whole numbers from 0 to {2**32 - 1}.")


def check_rounds(rounds: int, rate: float, temperature: float, group_size: int, seed: int = 0) -> None:
    """Raises ValueError for numbers out of range."""
    if rounds < 1:
        raise ValueError(f"rounds: got {rounds}, accepted are whole numbers from 1.")
    check_draw(rate, seed, temperature, group_size)
    check_draw(rate, seed + rounds, temperature, group_size)  # of the last round
