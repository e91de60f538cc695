"""What looks arranged: purchases in the instant of the launch, bursts of purchases, purchases of one size.

The venue tells no slot, so "together" means received within TOGETHER_NS. A slot lasts 400 ms, and frames of one slot
reach us in one batch; strangers who happen to buy in the same slot look the same as a bundle. A hint, not a proof.
"""

from __future__ import annotations

from typing import Final

from schemas.money import BPS

TOGETHER_NS: Final = 50_000_000

# From so many purchases together on it is a burst: two may be one transaction or chance.
BURST_BUYS_MIN: Final = 3

# Sizes that differ by less are one size: the curve's rounding moves the amount of one order by a lamport or two.
SIZE_STEP_LAMPORTS: Final = 1_000

# More different sizes than that are counted as new ones without a look.
SIZES_MAX: Final = 200


class Patterns:
    """Counted over the purchases heard since the creation.

    launch_buys, launch_tokens: within TOGETHER_NS of the creation, by others than the creator.
    burst_buys_max: the most purchases within TOGETHER_NS of the first of them. burst_buys: purchases in bursts.
    repeated_sizes: purchases of a size that was bought before.
    """

    __slots__ = (
        "_burst", "_burst_began_ns", "_launched_ns", "_sizes", "burst_buys", "burst_buys_max", "buys", "launch_buys",
        "launch_tokens", "repeated_sizes",
    )  # fmt: skip

    def __init__(self, launched_ns: int) -> None:
        self._launched_ns = launched_ns
        self._burst_began_ns = 0
        self._burst = 0
        self._sizes: set[int] = set()
        self.buys = self.launch_buys = self.launch_tokens = self.burst_buys = self.burst_buys_max = 0
        self.repeated_sizes = 0

    def bought(self, at_ns: int, tokens: int, size_lamports: int) -> None:
        """A purchase by somebody else than the creator."""
        self.buys += 1
        if at_ns - self._launched_ns <= TOGETHER_NS:
            self.launch_buys += 1
            self.launch_tokens += tokens
        self._count_burst(at_ns)
        size = size_lamports // SIZE_STEP_LAMPORTS
        # The neighbours, too: two amounts a lamport apart may lie on both sides of a step.
        if size in self._sizes or size - 1 in self._sizes or size + 1 in self._sizes:
            self.repeated_sizes += 1
        elif len(self._sizes) < SIZES_MAX:
            self._sizes.add(size)

    def _count_burst(self, at_ns: int) -> None:
        if at_ns - self._burst_began_ns > TOGETHER_NS:
            self._burst_began_ns = at_ns
            self._burst = 0
        self._burst += 1
        if self._burst == BURST_BUYS_MIN:
            self.burst_buys += BURST_BUYS_MIN
        elif self._burst > BURST_BUYS_MIN:
            self.burst_buys += 1
        if self._burst > self.burst_buys_max:
            self.burst_buys_max = self._burst

    @property
    def identical_bps(self) -> int:
        """Share of the purchases whose size was bought before; an honest crowd repeats the round amounts, too."""
        return self.repeated_sizes * BPS // self.buys if self.buys else 0

    @property
    def burst_bps(self) -> int:
        """Share of the purchases that came in bursts."""
        return self.burst_buys * BPS // self.buys if self.buys else 0
