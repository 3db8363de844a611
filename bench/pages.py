"""Pages of different sizes: those of one size together against one page at a time; and the memory that a large page takes in training."""
import subprocess
import sys

import torch

from epuredgm.blocks.schedules import Progress
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.wireframes import WireframesConfig, build_wireframes
from epuredgm.models.wireframe_vae import WireframeVAE, WireframeVAEConfig
from timing import Result, at_least, in_turn, median_ratio

AT_ONCE = 16  # pages of an optimiser step, either way

PEAK = """
import sys, time
import torch
from epuredgm.blocks.schedules import Progress
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Batch
from epuredgm.models.wireframe_vae import WireframeVAE, WireframeVAEConfig
height, width, recompute = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
torch.set_num_threads(2)
model = WireframeVAE(DesignSpec(("page",)), WireframeVAEConfig(checkpointing=recompute, **({} if height > 256 else {"nf": 8, "decoder_nf": 8}))).train()
batch = Batch(torch.rand(1, 1, height, width), None, torch.ones(1, 1, dtype=torch.bool))
sizes, own = {}, {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
def keep(tensor):
    sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor
def step(): return model.losses(batch, Progress(), torch.Generator())["loss"]
with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor): loss = step()
kept = sum(size for place, size in sizes.items() if place not in own)
loss.backward()
start = time.perf_counter()
step().backward()
print(kept / 2**20, time.perf_counter() - start)
"""


def epochs(tiny: bool) -> tuple[dict, dict]:
    "Training on a share of generated pages, batch by batch, in two ways; and how many pages each takes."
    data = build_wireframes(WireframesConfig(n=24 if tiny else 600, scale=0.06 if tiny else 0.125, size_step=32)).train
    model = WireframeVAE(DesignSpec(("page",)), WireframeVAEConfig(nf=16, decoder_nf=8)).train()
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    # The same pages both ways: batches of one size, taken apart for the second.
    chosen = data.index_batches(AT_ONCE)[:: 3 if tiny else 6]

    def one_step(groups):
        optimizer.zero_grad()
        for rows in groups:
            (model.losses(data.batch(rows, epoch=0), Progress(), generator("bench"))["loss"] * len(rows) / AT_ONCE).backward()
        optimizer.step()

    works = {"bucketed": lambda: [one_step([rows]) for rows in chosen], "one by one": lambda: [one_step(rows.split(1)) for rows in chosen]}
    return works, {"pages": sum(map(len, chosen)), "batches": len(chosen), "sizes": len(set(data.buckets))}


def peak(height: int, width: int, recompute: bool) -> tuple[float, float]:
    "MiB that a training step of one page keeps for its gradient, beyond the weights, and its seconds; in a process of its own."
    answer = subprocess.run([sys.executable, "-c", PEAK, str(height), str(width), str(recompute)], capture_output=True, text=True, check=True)
    return tuple(map(float, answer.stdout.split()))


def page_batches(tiny: bool) -> list[Result]:
    "Pages per second of training steps, bucketed over one by one; memory with and without recomputed blocks."
    works, what = epochs(tiny)
    times = in_turn(works, 1 if tiny else 5)
    seconds = {name: sorted(each)[len(each) // 2] for name, each in times.items()}
    ratio = median_ratio(times, "one by one", "bucketed")
    size = (256, 128) if tiny else (2048, 1024)
    plain, recomputed = peak(*size, False), peak(*size, True)
    return [
        at_least("pages per second of batches of one size over batch_size 1", ratio, 1.5, "times",
                 **what, **{f"{name}, pages per second": round(what["pages"] / each, 1) for name, each in seconds.items()}),
        Result(f"kept for the gradient of a {size[0]}×{size[1]} page", plain[0], "MiB", details={"seconds": round(plain[1], 2)}),
        Result("the same with checkpointing", recomputed[0], "MiB", details={"seconds": round(recomputed[1], 2)}),
    ]
