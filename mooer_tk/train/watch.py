"""What a run tells of itself: train.jsonl, TensorBoard, tokens and operations per second, memory, time left."""

import json
import resource
import time
from functools import cache
from pathlib import Path

import torch

from mooer_tk.data.atomic import write_text
from mooer_tk.data.result_log import read_jsonl
from mooer_tk.precision import autocast
from mooer_tk.progress import log
from mooer_tk.train.processes import add_by_name

# Dense bfloat16 operations per second by the makers' data sheets; the first name that the GPU's own contains counts.
PEAKS = {"B200": 2.25e15, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "4090": 165e12}


class Window:
    """The steps since the last line of the log: one batch alone says little, as its lengths are alike."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.positions = self.padded = 0
        self.flops = self.seconds = 0.0

    def add(self, sums: dict[str, float], counts: dict[str, int], seconds: float, facts: dict[str, float]) -> None:
        """Take one step in; `facts` holds positions, padded and flops of all processes."""
        self.counts = add_by_name([self.counts, counts])
        self.sums = add_by_name([self.sums, {name: sums.get(name, 0.0) for name in counts}])
        self.positions, self.padded = self.positions + facts["positions"], self.padded + facts["padded"]
        self.flops, self.seconds = self.flops + facts["flops"], self.seconds + seconds

    def means(self) -> dict[str, float]:
        """Loss per token by name, the first one as "loss" too, and the share of padding."""
        means = {f"loss_{name}": round(total / max(self.counts[name], 1), 6) for name, total in self.sums.items()}
        main = next(iter(self.counts))
        padding = round(1 - self.positions / max(self.padded, 1), 4)
        return {"loss": means[f"loss_{main}"], **means, "padding": padding}

    def speed(self, peak: float) -> dict[str, float]:
        """Tokens of the first loss per second, and model FLOPs utilisation against `peak` of all processes together."""
        tokens = next(iter(self.counts.values()))
        return {"tokens_per_s": round(tokens / self.seconds, 1), "mfu": round(self.flops / self.seconds / peak, 4)}


# Keys of a line that depend on the machine and its load: two runs of one command differ in these alone.
OF_THE_CLOCK = ("seconds", "tokens_per_s", "mfu", "memory_gib", "left")


class TrainLog:
    """`train.jsonl` and `tensorboard/` of a run; lines past the checkpoint that a run goes on from are dropped.

    Args:
        folder: the run's directory.
        step: the step that it goes on from; 0 starts anew.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "train.jsonl"
        # A line that a kill tore comes again: the checkpoint is older.
        self.lines = [line for line in read_jsonl(self.path) if line["step"] <= step] if step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, line: dict) -> None:
        """Write one line: to the file, to TensorBoard, and in short to the terminal."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name not in ("kind", "step") and isinstance(value, int | float):
                self.board.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        shown = {k: v for k, v in line.items() if k not in ("kind", "seconds")}
        text = " ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
        log(f"{line['kind']}: {text}")

    def dev_scores(self) -> list[dict]:
        """The dev lines so far."""
        return [line for line in self.lines if line["kind"] == "dev"]

    def close(self) -> None:
        """Write out what TensorBoard holds back."""
        self.board.close()


def memory_gib(device: torch.device) -> float:
    """The most memory that this process has taken so far: of the GPU, or of the machine."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


@cache
def peak_flops(device: torch.device, precision: str) -> float:
    """What the device could do at best: a GPU's data sheet, else the best of a few products of large matrices."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if known := [peak for part, peak in PEAKS.items() if part in name]:
            return known[0]
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(size, size, device=device) for _ in range(2))
    best = float("inf")
    with torch.no_grad(), autocast(precision, device.type):
        for _ in range(8):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            begun = time.perf_counter()
            (left @ right)[0, 0].item()
            best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
