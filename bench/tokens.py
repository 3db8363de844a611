"""What tokens cost: the nearest code of every vector, against the differences to all codes laid out."""
import torch

from epuredgm.blocks.codebook import nearest_codes
from epuredgm.core.seeds import generator
from timing import Result, at_least, in_turn, median_ratio


def nearest_code_search(tiny: bool) -> list[Result]:
    "The vectors of a batch of 64 designs of 160 tokens, 512 codes of 40 numbers."
    vectors, size, dim, rounds = (64, 16, 4, 1) if tiny else (64 * 160, 512, 40, 15)
    x, codes = torch.randn(vectors, dim, generator=generator("vectors")), torch.randn(size, dim, generator=generator("codes"))
    def laid_out(): return torch.cat([(part[:, None] - codes).square().sum(2).argmin(1) for part in x.split(1024)])
    times = in_turn({"search": lambda: nearest_codes(x, codes), "laid out": laid_out}, rounds)
    assert torch.equal(nearest_codes(x, codes), laid_out())
    return [at_least("nearest codes over all differences laid out", median_ratio(times, "laid out", "search"), 2, "×", vectors=vectors, codes=size)]
