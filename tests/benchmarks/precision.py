"""What 16 bits cost a trained model on its way back: errors of four forms, as shares of what training changed.

The last two rounds of a model that was trained with this project stand for what a site receives and sends. The form
in use is fp16 of the change (`common.wire.pack_trained`); its peers are the weights themselves in fp16 and in bf16, and
the change in bf16.

Run by hand: PYTHONPATH=. .venv-bench/bin/python tests/benchmarks/precision.py runs/NAME/rounds/MODEL
"""

import argparse
import zlib
from pathlib import Path

import numpy as np
import torch

from common import wire
from common.checkpoint import Weights, load_weights
from common.layers import Layers


def flat(weights: Weights) -> np.ndarray:
    """All numbers of a model, in the order of its names."""
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def bf16(values: np.ndarray) -> tuple[np.ndarray, bytes]:
    """The values as bf16 holds them, and their bytes."""
    half = torch.from_numpy(values).bfloat16()
    return half.float().numpy(), half.view(torch.int16).numpy().tobytes()


def deflated(sent: bytes) -> float:
    """Share that is left after lossless compression, high and low bytes apart."""
    apart = np.frombuffer(sent, np.uint8).reshape(-1, 2).T.tobytes()
    return len(zlib.compress(apart, 1)) / len(sent)


def main() -> None:
    """Prints a row a form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=Path, help="a model's folder of rounds")
    before, after = (
        load_weights(path)[0] for path in sorted(parser.parse_args().rounds.glob("round-????.safetensors"))[-2:]
    )
    start, end = flat(before), flat(after)
    record = wire.pack_trained(after, before, "fp16")
    change = wire.trained_layers(wire.unpacked(record), Layers.of(before), "fp16").arrays()
    rounded = wire.record_to_weights(wire.pack_weights(after, "fp16"))
    weights16 = np.float16(end).tobytes()
    change_bf16, change_bytes = bf16(end - start)
    weights_bf16, weights_bytes = bf16(end)
    forms = {
        "weights, bf16": (weights_bf16, weights_bytes),
        "weights, fp16": (flat(rounded), weights16),
        "change, bf16": (start + change_bf16, change_bytes),
        "change, fp16": (flat(change), record[wire.PACKED].numpy().tobytes()),
    }
    step = np.sqrt(np.mean((end - start) ** 2))
    print(f"{end.size:,} numbers, RMS {np.sqrt(np.mean(end**2)):.3g}; their change in a round, RMS {step:.3g}")
    print("| form | largest error | mean error | RMS error / RMS change | deflated to |\n|---|---:|---:|---:|---:|")
    for name, (got, sent) in forms.items():
        error = np.abs(got.astype(np.float64) - end)
        share = np.sqrt(np.mean(error**2)) / step
        print(
            f"| {name} | {error.max():.1e} | {error.mean():.1e} | {100 * share:.3f} % | {100 * deflated(sent):.0f} % |"
        )


if __name__ == "__main__":
    main()
