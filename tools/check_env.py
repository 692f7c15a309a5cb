#!/usr/bin/env python3
"""Say what this environment has: versions, audio decoding, cores, memory, disk, optional parts.

Usage: python tools/check_env.py [FOLDER]     (FOLDER: whose free disk space to show; default: here)

Exit status 1 when something required is missing or broken, or when torchaudio is installed and
cannot be imported; 0 otherwise. Optional parts that are absent are listed with the way to get them.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import sys
import wave

INSTALL = "tools/install.sh"

# module to import -> name of the package that brings it
REQUIRED = {
    "transformers": "transformers",
    "peft": "peft",
    "accelerate": "accelerate",
    "safetensors": "safetensors",
    "gguf": "gguf",
    "soundfile": "soundfile",
    "av": "av",
    "numpy": "numpy",
    "yaml": "pyyaml",
    "jiwer": "jiwer",
    "sacrebleu": "sacrebleu",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "tqdm": "tqdm",
}

# what -> (module or program, what it is for, how to get it)
OPTIONAL_PACKAGES = {
    "deepspeed": ("deepspeed", "ZeRO training on several GPUs", f"{INSTALL} --extras deepspeed"),
    "espnet": ("espnet2", "ESPnet's encoders", "tools/install_espnet.sh"),
    "faster-whisper": ("faster_whisper", "teacher transcripts", f"{INSTALL} --extras label"),
}
OPTIONAL_PROGRAMS = {
    "flite": ("flite", "synthetic speech for tests", "your system's package flite"),
    "espeak-ng": ("espeak-ng", "synthetic speech in many languages", "your system's package espeak-ng"),
}


class Report:
    """Prints one line per finding and counts the problems."""

    def __init__(self) -> None:
        self.problems = 0

    def good(self, name: str, text: str) -> None:
        print(f"  ok       {name:<16} {text}")

    def absent(self, name: str, text: str) -> None:
        print(f"  absent   {name:<16} {text}")

    def bad(self, name: str, text: str) -> None:
        self.problems += 1
        print(f"  PROBLEM  {name:<16} {text}")


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


def check_python(report: Report) -> None:
    text = f"{platform.python_version()} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        report.good("python", text)
    else:
        report.bad("python", f"{text}; 3.11 or 3.12 is needed: {INSTALL} --python python3.11")


def check_torch(report: Report) -> None:
    try:
        import torch
    except Exception as error:
        report.bad("torch", f"{type(error).__name__}: {error}; run {INSTALL}")
        return
    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    report.good("torch", f"{torch.__version__}, {build}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            report.good(f"gpu {index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    elif torch.version.cuda:
        report.absent("gpu", "CUDA build, but no usable GPU: it will train on the CPU")
    elif shutil.which("nvidia-smi"):
        report.absent("gpu", f"CPU build beside an NVIDIA driver; remove the venv and run {INSTALL} again")
    else:
        report.absent("gpu", "no NVIDIA GPU; it will train on the CPU")


def check_required(report: Report) -> None:
    for module, package in REQUIRED.items():
        try:
            importlib.import_module(module)
        except Exception as error:
            report.bad(package, f"{type(error).__name__}: {error}; run {INSTALL}")
        else:
            report.good(package, version_of(package))


def check_torchaudio(report: Report) -> None:
    """It is never needed, but one that does not match torch breaks the packages that try to use it."""
    if importlib.util.find_spec("torchaudio") is None:
        report.good("torchaudio", "not installed, and not needed")
        return
    try:
        importlib.import_module("torchaudio")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        report.bad("torchaudio", f"installed but broken ({reason}); remove it: pip uninstall torchaudio")
    else:
        report.good("torchaudio", f"{version_of('torchaudio')}, works, but is not needed")


def check_audio(report: Report) -> None:
    """Decode a wave file in memory with PyAV, which carries its own FFmpeg libraries."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(bytes(2 * 1600))
    buffer.seek(0)
    try:
        import av

        with av.open(buffer) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
        names = [name for name in ("mp3", "aac", "flac", "opus") if name in av.codecs_available]
    except Exception as error:
        report.bad("audio decoding", f"PyAV: {type(error).__name__}: {error}; run {INSTALL}")
        return
    if samples == 1600:
        report.good("audio decoding", f"PyAV, no ffmpeg program needed; wav, {', '.join(names)}")
    else:
        report.bad("audio decoding", f"PyAV decoded {samples} of 1600 samples; run {INSTALL} --force")


def memory_gib() -> str:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return "unknown"
    text = f"{total:.1f} GiB"
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    text += f", {int(line.split()[1]) / 2**20:.1f} GiB available"
    except OSError:
        pass
    return text


def check_machine(report: Report, folder: str) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report.good("cores", f"{cores} usable, {platform.machine()}, {platform.system()} {platform.release()}")
    report.good("memory", memory_gib())
    usage = shutil.disk_usage(folder)
    report.good("disk", f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB in {folder}")


def check_optional(report: Report) -> None:
    for name, (module, purpose, how) in OPTIONAL_PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            report.absent(name, f"{purpose}; to get it: {how}")
        else:
            report.good(name, f"{version_of(name)}, {purpose}")
    for name, (program, purpose, how) in OPTIONAL_PROGRAMS.items():
        found = shutil.which(program)
        if found is None:
            report.absent(name, f"{purpose}; to get it: {how}")
        else:
            report.good(name, f"{found}, {purpose}")


def main() -> int:
    if len(sys.argv) > 2 or "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__)
        return 0
    folder = sys.argv[1] if len(sys.argv) == 2 else "."
    if not os.path.isdir(folder):
        print(f"check_env: no folder {folder}; name one whose disk space is to be shown", file=sys.stderr)
        return 1
    report = Report()
    print("Required")
    check_python(report)
    check_torch(report)
    check_required(report)
    check_audio(report)
    check_torchaudio(report)
    print("Machine")
    check_machine(report, os.path.abspath(folder))
    print("Optional")
    check_optional(report)
    if report.problems:
        print(f"check_env: {report.problems} problem(s), marked PROBLEM above")
        return 1
    print("check_env: all that is required is there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
