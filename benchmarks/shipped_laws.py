"""Derive the step laws that ship, from tables of operators: `calibration/shipped/*-tables.json`.

    pip install -e '.[hardware]'
    python benchmarks/shipped_laws.py

Each is what `batchcube calibrate hardware` gives for a common model on GPUs that it is often served on, with vLLM and
its defaults there. A test derives them again.
"""

from batchcube.calibration.coefficients import SHIPPED
from batchcube.calibration.hardware import Deployment
from batchcube.sweeps.calibrate.hardware import derive

_LLAMA_8B, _LLAMA_70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
LAWS = {
    "llama-3.1-8b-a100-vllm-tables": Deployment(_LLAMA_8B, "a100_sxm"),
    "llama-3.1-8b-h100-vllm-tables": Deployment(_LLAMA_8B, "h100_sxm"),
    "llama-3.1-8b-h200-vllm-tables": Deployment(_LLAMA_8B, "h200_sxm"),
    "llama-3.1-8b-b200-vllm-tables": Deployment(_LLAMA_8B, "b200_sxm"),
    "llama-3.1-8b-l40s-vllm-tables": Deployment(_LLAMA_8B, "l40s"),
    "llama-3.1-70b-4xa100-vllm-tables": Deployment(_LLAMA_70B, "a100_sxm", tensor_parallel=4),
    "llama-3.1-70b-4xh100-vllm-tables": Deployment(_LLAMA_70B, "h100_sxm", tensor_parallel=4),
    "llama-3.1-70b-2xh200-vllm-tables": Deployment(_LLAMA_70B, "h200_sxm", tensor_parallel=2),
    "llama-3.1-70b-2xb200-vllm-tables": Deployment(_LLAMA_70B, "b200_sxm", tensor_parallel=2),
    "qwen3-0.6b-h100-vllm-tables": Deployment("Qwen/Qwen3-0.6B", "h100_sxm"),
    "qwen3-0.6b-h200-vllm-tables": Deployment("Qwen/Qwen3-0.6B", "h200_sxm"),
    "qwen3-8b-a100-vllm-tables": Deployment("Qwen/Qwen3-8B", "a100_sxm"),
    "qwen3-8b-h100-vllm-tables": Deployment("Qwen/Qwen3-8B", "h100_sxm"),
    "qwen3-32b-2xa100-vllm-tables": Deployment("Qwen/Qwen3-32B", "a100_sxm", tensor_parallel=2),
    "qwen3-32b-2xh100-vllm-tables": Deployment("Qwen/Qwen3-32B", "h100_sxm", tensor_parallel=2),
    "qwen3-32b-h200-vllm-tables": Deployment("Qwen/Qwen3-32B", "h200_sxm"),
    "qwen3-30b-a3b-h100-vllm-tables": Deployment("Qwen/Qwen3-30B-A3B", "h100_sxm"),
    "qwen3-30b-a3b-h200-vllm-tables": Deployment("Qwen/Qwen3-30B-A3B", "h200_sxm"),
    "gpt-oss-20b-h100-vllm-tables": Deployment("openai/gpt-oss-20b", "h100_sxm"),
    "gpt-oss-20b-l40s-vllm-tables": Deployment("openai/gpt-oss-20b", "l40s"),
    "gpt-oss-120b-h100-vllm-tables": Deployment("openai/gpt-oss-120b", "h100_sxm"),
    "gpt-oss-120b-2xh100-vllm-tables": Deployment("openai/gpt-oss-120b", "h100_sxm", tensor_parallel=2),
    "gpt-oss-120b-b200-vllm-tables": Deployment("openai/gpt-oss-120b", "b200_sxm"),
    "deepseek-v3-8xh200-vllm-tables": Deployment("deepseek-ai/DeepSeek-V3", "h200_sxm", tensor_parallel=8),
}
"""The laws that ship, by their names."""


def main() -> None:
    """Write them all."""
    for name, deployment in LAWS.items():
        known = derive(deployment, name)
        (SHIPPED / f"{name}.json").write_text(known.text(), encoding="utf-8")
        said = known.step_law.rms_by_kind if known.step_law else {}
        print(f"{name:<36} {', '.join(f'{kind} {100 * rms:.1f} %' for kind, rms in said.items())}")


if __name__ == "__main__":
    main()
